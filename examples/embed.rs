//! orderflow inside a web service: orders come in by HTTP, totals are kept up to date, and every GET answers from one complete epoch.
//!
//!     cargo run --example embed
//!     curl -X POST localhost:3000/orders -d '{"city":"Mumbai","payment_type":"UPI","qty":2,"price":"49.90"}'
//!     curl localhost:3000/totals/Mumbai

use axum::{Json, Router, extract::Path, extract::State, http::StatusCode, routing::get, routing::post};
use orderflow::plan::typed::{Record, batch_of};
use orderflow::{Pipeline, Result, Running, arrow, source::memory};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Serialize, Deserialize)]
struct Sale {
    city: String,
    payment_type: String,
    qty: i64,
    price: Decimal,
}

impl Record for Sale {
    fn schema() -> Result<arrow::datatypes::SchemaRef> {
        use arrow::datatypes::{DataType::*, Field, Schema};
        let field = |name, t| Field::new(name, t, false);
        let price = field("price", Decimal128(18, 2));
        Ok(Arc::new(Schema::new(vec![field("city", Utf8), field("payment_type", Utf8), field("qty", Int64), price])))
    }
}

#[derive(Serialize, Deserialize)]
struct Total {
    city: String,
    payment_type: String,
    orders: i64,
    amount: Decimal,
}

type Shop = Arc<(memory::Sender, Running)>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let (sales, source) = memory::channel(Sale::schema()?, 10_000);
    let mut flow = Pipeline::new("shop");
    flow.source("sales", source)?;
    flow.view(
        "totals",
        "SELECT city, payment_type, count(*) AS orders, sum(qty * price) AS amount FROM sales GROUP BY city, payment_type",
    )?;
    let shop: Shop = Arc::new((sales, flow.start().await?));

    let app = Router::new().route("/orders", post(order)).route("/totals/{city}", get(totals)).with_state(shop);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, app).await?)
}

async fn order(State(shop): State<Shop>, Json(sale): Json<Sale>) -> std::result::Result<StatusCode, String> {
    shop.0.send(batch_of(&[sale]).map_err(|e| e.to_string())?).await.map_err(|e| e.to_string())?;
    Ok(StatusCode::ACCEPTED)
}

async fn totals(State(shop): State<Shop>, Path(city): Path<String>) -> std::result::Result<Json<Vec<Total>>, String> {
    let all = shop.1.query_as::<Total>("SELECT * FROM totals ORDER BY payment_type").await.map_err(|e| e.to_string())?;
    Ok(Json(all.into_iter().filter(|t| t.city == city).collect()))
}
