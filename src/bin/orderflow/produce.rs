//! `orderflow produce`: seeded orders into a topic, a batch at every beat.

use crate::args::Produce;
use crate::words::by_options;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use orderflow::error::Retry;
use orderflow::generator::Orders;
use orderflow::kafka::{Admin, Kafka, Producer, Record};
use orderflow::{Error, Result, Status, pipelines};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Runs until all orders are confirmed, or until Ctrl-C: what was sent is confirmed then, too.
pub(crate) async fn run(options: Produce) -> Result<()> {
    if let Some(state) = options.state.clone() {
        return go_on(&options, state).await;
    }
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

fn create_topic(options: &Produce) -> Result<()> {
    let topic = &options.to.topic;
    if Admin::connect(options.to.brokers.as_str())?.create_topic(topic, i32::from(options.partitions), -1, &[])? {
        eprintln!("created topic {topic} with {} partitions", options.partitions);
    }
    Ok(())
}

fn recipe(options: &Produce) -> Orders {
    options.orders.map_or(Orders::new(options.seed), |n| Orders::new(options.seed).total(n))
}

/// Produces as a pipeline that remembers how far it is, until all orders are in the topic, or until Ctrl-C.
async fn go_on(options: &Produce, state: PathBuf) -> Result<()> {
    create_topic(options)?;
    let (topic, recipe) = (&options.to.topic, recipe(options).rate(options.rate));
    let to = Kafka::sink(&options.to.brokers).topic(topic).partitions(i32::from(options.partitions)).lanes(usize::from(options.lanes));
    let flow = pipelines::orders::producer(&format!("produce-{topic}"), &recipe, to)?;
    let flow = flow.epoch_interval(options.every).state(state).wait_for_state(options.standby.time());
    let running = flow.start().await.map_err(by_options)?;
    let (start, bar) = (Instant::now(), bar(options));
    let position = |status: &Status| status.sources[0].status.partitions.first().map_or(0, |p| p.position);
    let begun = position(&running.status());
    let (mut said, mut waits) = (Instant::now(), None);
    let stop = tokio::signal::ctrl_c();
    tokio::pin!(stop);
    let ended = loop {
        tokio::select! {
            ended = running.wait() => break ended?,
            _ = &mut stop => break running.drain().await?,
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        let status = running.status();
        bar.set_position(position(&status));
        if bar.is_hidden() && said.elapsed() >= Duration::from_secs(5) {
            said = Instant::now();
            eprintln!("{} orders made", position(&status));
        }
        let why = status.waits.or_else(|| status.sinks.into_iter().find_map(|s| s.waits));
        if why != waits {
            why.iter().for_each(|why| bar.suspend(|| eprintln!("waiting: {why}")));
            waits = why;
        }
    };
    bar.finish_and_clear();
    let (all, seconds) = (position(&ended), start.elapsed().as_secs_f64());
    println!("{all} orders in topic {topic}, {} of them now, {seconds:.1} s", all.saturating_sub(begun));
    Ok(())
}

fn produce(options: &Produce, stop: &AtomicBool) -> Result<()> {
    let topic = &options.to.topic;
    create_topic(options)?;
    let mut producer = Producer::connect(options.to.brokers.as_str())?;
    let recipe = recipe(options);
    let mut records = recipe.records(0);
    let (pace, start, bar) = (options.pace(), Instant::now(), bar(options));
    let (mut value, mut last) = (Vec::new(), Duration::ZERO);
    loop {
        let due = pace.due(start.elapsed());
        let mut done = false;
        while !stop.load(Ordering::Relaxed) && due.is_none_or(|due| records.position() < due) && producer.has_room() {
            value.clear();
            let key = records.position().to_string();
            done = records.next_into(&mut value).is_none();
            if done {
                break;
            }
            producer.send(topic, Record { value: Some(&value), key: Some(key.as_bytes()), ..Record::default() })?;
            if records.position().is_multiple_of(1000) {
                confirm(&mut producer, Duration::ZERO, &bar)?;
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
        let wait = if producer.has_room() { pace.wait(start.elapsed()) } else { Duration::from_millis(20) };
        confirm(&mut producer, wait.min(Duration::from_millis(200)), &bar)?;
    }
    producer.flush(Duration::from_secs(60))?;
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    println!("{} orders in topic {topic}, {seconds:.1} s, {:.0} a second", producer.delivered(), producer.delivered() as f64 / seconds);
    Ok(())
}

/// Takes confirmations. That no broker can be reached is said once, and no end: what was sent leaves when one can.
fn confirm(producer: &mut Producer, wait: Duration, bar: &ProgressBar) -> Result<()> {
    match producer.poll(wait) {
        Err(e) if e.retry() == Retry::Backoff => bar.suspend(|| eprintln!("waiting: {e}")),
        outcome => outcome?,
    }
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
