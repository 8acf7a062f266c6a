//! orderflow inside a web service: sales come in by HTTP, totals are kept up to date, every GET answers from one complete epoch.
//!
//!     cargo run --example embed        # on port 3000; `-- PORT` for another one, 0 for any that is free
//!     curl localhost:3000/sales --json '{"city":"Mumbai","payment_type":"UPI","qty":2,"cents":4990}'
//!     curl localhost:3000/totals/Mumbai
#![allow(clippy::print_stdout, reason = "a program prints")]

use axum::{Json, Router, extract::Path, extract::State, http::StatusCode, routing::get, routing::post};
use orderflow::plan::typed::{Record, batch_of};
use orderflow::{Pipeline, Running, source::memory};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Serialize, Deserialize)]
struct Sale {
    city: String,
    payment_type: String,
    qty: i64,
    cents: i64,
}

impl Record for Sale {}

#[derive(Serialize, Deserialize)]
struct Total {
    city: String,
    payment_type: String,
    sales: i64,
    cents: i64,
}

type Shop = Arc<(memory::Sender, Running)>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (sales, source) = memory::channel(Sale::schema()?, 10_000);
    let mut flow = Pipeline::new("shop");
    flow.source("sales", source)?;
    flow.view("totals", "SELECT city, payment_type, count(*) AS sales, sum(qty * cents) AS cents FROM sales GROUP BY city, payment_type")?;
    let shop: Shop = Arc::new((sales, flow.start().await?));

    let app = Router::new().route("/sales", post(sale)).route("/totals/{city}", get(totals)).with_state(shop);
    let port = std::env::args().nth(1).map_or(Ok(3000), |port| port.parse::<u16>())?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}

async fn sale(State(shop): State<Shop>, Json(sale): Json<Sale>) -> Result<StatusCode, String> {
    shop.0.send(batch_of(&[sale]).map_err(|e| e.to_string())?).await.map_err(|e| e.to_string())?;
    Ok(StatusCode::ACCEPTED)
}

// a name from outside is compared here and never becomes a part of the SQL
async fn totals(State(shop): State<Shop>, Path(city): Path<String>) -> Result<Json<Vec<Total>>, String> {
    let all = shop.1.query_as::<Total>("SELECT * FROM totals ORDER BY payment_type").await.map_err(|e| e.to_string())?;
    Ok(Json(all.into_iter().filter(|t| t.city == city).collect()))
}
