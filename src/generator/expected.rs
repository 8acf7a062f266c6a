//! What a pipeline must find in generated records, computed the plain way: every record parsed by serde, one after the other.
//!
//! Invariant: nothing here knows how the records were made, so that it can judge the generator as well as the pipeline.

use super::{Encoding, Orders};
use crate::domain::Order;
use rust_decimal::Decimal;
use std::collections::BTreeMap;

/// Everything the pipeline of orders reports, as it is after the last record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// All records, bad ones included.
    pub records: u64,
    /// Bytes of all records.
    pub bytes: u64,
    /// Records that are no order.
    pub rejected: u64,
    /// Orders and amount of each (city, payment type), failed payments included.
    pub totals: BTreeMap<(String, String), Total>,
    /// Orders by failure reason, of those whose payment failed.
    pub failures: BTreeMap<String, u64>,
    /// Orders by payment type and success.
    pub outcomes: BTreeMap<(String, bool), u64>,
    /// Records routed to each topic; an order goes to two.
    pub topics: BTreeMap<String, u64>,
}

/// One row of [`Expected::totals`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Number of orders.
    pub orders: u64,
    /// Σ qty × price.
    pub amount: Decimal,
}

/// Reads the first `records` records of `orders` and computes what a pipeline must find in them. A bounded recipe ends where it ends.
pub fn expected(orders: &Orders, records: u64) -> Expected {
    let mut source = orders.clone().encoding(Encoding::Json).records(0);
    let mut found = Expected::default();
    let mut record = Vec::new();
    while found.records < records {
        record.clear();
        let Some(size) = source.next_into(&mut record) else { break };
        found.records += 1;
        found.bytes += size as u64;
        match serde_json::from_slice::<Order>(&record) {
            Ok(order) => found.add(&order),
            Err(_) => found.rejected += 1,
        }
    }
    found
}

impl Expected {
    fn add(&mut self, order: &Order) {
        let total = self.totals.entry((order.city.clone(), order.payment_type.clone())).or_default();
        total.orders += 1;
        total.amount += order.amount();
        *self.outcomes.entry((order.payment_type.clone(), order.succeeded())).or_default() += 1;
        *self.topics.entry(order.payment_topic()).or_default() += 1;
        *self.topics.entry(order.success_topic().into()).or_default() += 1;
        if !order.succeeded() {
            *self.failures.entry(order.failure_reason.clone().unwrap_or_default()).or_default() += 1;
        }
    }
}
