//! `orderflow produce`: seeded orders into a topic, a batch at every beat.

use crate::args::Produce;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use orderflow::generator::Orders;
use orderflow::kafka::{Admin, Producer, Record};
use orderflow::{Error, Result};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Runs until all orders are confirmed, or until Ctrl-C: what was sent is confirmed then, too.
pub(crate) async fn run(options: Produce) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    let producing = tokio::task::spawn_blocking(move || produce(&options, &told));
    tokio::pin!(producing);
    let joined = tokio::select! {
        joined = &mut producing => joined,
        _ = tokio::signal::ctrl_c() => {
            stop.store(true, Ordering::Relaxed);
            producing.await
        }
    };
    joined.map_err(|e| Error::internal("the producer panicked").why(e))?
}

fn produce(options: &Produce, stop: &AtomicBool) -> Result<()> {
    let topic = &options.to.topic;
    let admin = Admin::connect(options.to.brokers.as_str())?;
    if admin.create_topic(topic, i32::from(options.partitions), -1, &[])? {
        eprintln!("created topic {topic} with {} partitions", options.partitions);
    }
    let mut producer = Producer::connect(options.to.brokers.as_str())?;
    let recipe = options.orders.map_or(Orders::new(options.seed), |n| Orders::new(options.seed).total(n));
    let mut records = recipe.records(0);
    let (pace, start, bar) = (options.pace(), Instant::now(), bar(options));
    let (mut value, mut last) = (Vec::new(), Duration::ZERO);
    loop {
        let due = pace.due(start.elapsed());
        let mut done = false;
        while !stop.load(Ordering::Relaxed) && due.is_none_or(|due| records.position() < due) {
            value.clear();
            let key = records.position().to_string();
            done = records.next_into(&mut value).is_none();
            if done {
                break;
            }
            producer.send(topic, Record { value: Some(&value), key: Some(key.as_bytes()), ..Record::default() })?;
            if records.position().is_multiple_of(1000) {
                producer.poll(Duration::ZERO)?;
                bar.set_position(records.position());
            }
        }
        bar.set_position(records.position());
        if done || stop.load(Ordering::Relaxed) || options.orders.is_some_and(|n| records.position() >= n) {
            break;
        }
        if bar.is_hidden() && start.elapsed() - last >= Duration::from_secs(5) {
            last = start.elapsed();
            eprintln!("{} orders sent", records.position());
        }
        producer.poll(pace.wait(start.elapsed()).min(Duration::from_millis(200)))?;
    }
    producer.flush(Duration::from_secs(60))?;
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    println!("{} orders in topic {topic}, {seconds:.1} s, {:.0} a second", producer.delivered(), producer.delivered() as f64 / seconds);
    Ok(())
}

fn bar(options: &Produce) -> ProgressBar {
    let bar = options.orders.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let template = if options.orders.is_some() { "{wide_bar} {pos}/{len} orders, {per_sec}" } else { "{spinner} {pos} orders, {per_sec}" };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar
}
