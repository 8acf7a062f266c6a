//! The order: one purchase in a web shop, as it stands in topic `orders`, and the topics it is routed to.
//!
//! Invariant: [`schema`], [`Order`] and the field order of a CSV line name the same 16 fields in the same order; every field but
//! `failure_reason` is always there.

use chrono::NaiveDateTime;
use orderflow_core::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use orderflow_core::plan::typed::Record;
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::sync::{Arc, LazyLock};

/// The topic that orders come in by.
pub const TOPIC: &str = "orders";
/// Column that identifies an order.
pub const KEY: &str = "order_id";
/// Column with an order's event time.
pub const EVENT_TIME: &str = "datetime";
/// The payment types that are known; any other one is as welcome.
pub const PAYMENT_TYPES: [&str; 6] = ["Card", "Internet Banking", "UPI", "Wallet", "Google PAY", "PAYTM"];
/// Topic of the orders whose payment went through.
pub const SUCCESSFUL_TOPIC: &str = "orders.successful";
/// Topic of the orders whose payment failed.
pub const FAILED_TOPIC: &str = "orders.failed";

/// [`payment_topic`] in SQL over the columns of [`schema`].
pub const PAYMENT_TOPIC_SQL: &str = "CASE WHEN slug(payment_type) IN ('', 'successful', 'failed') \
     THEN 'orders.type-' || slug(payment_type) ELSE 'orders.' || slug(payment_type) END";
/// [`Order::success_topic`] in SQL over the columns of [`schema`].
pub const SUCCESS_TOPIC_SQL: &str = "CASE WHEN payment_txn_success = 'Y' THEN 'orders.successful' ELSE 'orders.failed' END";
/// [`Order::amount`] in SQL over the columns of [`schema`], always exact.
pub const AMOUNT_SQL: &str = "qty * price";

/// One order.
///
/// As JSON, `price` is written as a string (a number would pass through a float) and read from a string or a number;
/// `datetime` is written as `2021-01-10T10:12:00`, which every reader of ISO 8601 takes, and read in all forms of [`parse_datetime`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Number of the order.
    pub order_id: i64,
    /// Number of the customer.
    pub customer_id: i64,
    /// The customer's name.
    pub customer_name: String,
    /// Number of the product.
    pub product_id: i64,
    /// The product's name.
    pub product_name: String,
    /// The product's category.
    pub product_category: String,
    /// How it was paid: one of [`PAYMENT_TYPES`] or any other text.
    pub payment_type: String,
    /// Number of pieces.
    pub qty: i64,
    /// Price of a piece, with at most two decimals.
    pub price: Decimal,
    /// Event time, without a zone.
    #[serde(serialize_with = "write_datetime", deserialize_with = "read_datetime")]
    pub datetime: NaiveDateTime,
    /// Country of the customer.
    pub country: String,
    /// City of the customer.
    pub city: String,
    /// The web shop.
    pub ecommerce_website_name: String,
    /// Number of the payment.
    pub payment_txn_id: i64,
    /// `Y` when the payment went through, `N` when it failed.
    pub payment_txn_success: String,
    /// Why the payment failed; an empty text is read as none.
    #[serde(default, deserialize_with = "none_if_empty")]
    pub failure_reason: Option<String>,
}

impl Order {
    /// `qty × price`. Exact up to 28 digits, which is every order of fewer than 10^10 pieces; beyond that rounded, and at last the largest `Decimal`.
    pub fn amount(&self) -> Decimal {
        let bound = if self.qty < 0 { Decimal::MIN } else { Decimal::MAX };
        self.price.checked_mul(Decimal::from(self.qty)).unwrap_or(bound)
    }

    /// Whether the payment went through.
    pub fn succeeded(&self) -> bool {
        self.payment_txn_success == "Y"
    }

    /// The topic of its payment type.
    pub fn payment_topic(&self) -> String {
        payment_topic(&self.payment_type)
    }

    /// [`SUCCESSFUL_TOPIC`] or [`FAILED_TOPIC`].
    pub fn success_topic(&self) -> &'static str {
        if self.succeeded() { SUCCESSFUL_TOPIC } else { FAILED_TOPIC }
    }
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let number = |name: &str| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![
        number(KEY),
        number("customer_id"),
        text("customer_name"),
        number("product_id"),
        text("product_name"),
        text("product_category"),
        text("payment_type"),
        number("qty"),
        Field::new("price", DataType::Decimal128(18, 2), false),
        Field::new(EVENT_TIME, DataType::Timestamp(TimeUnit::Millisecond, None), false),
        text("country"),
        text("city"),
        text("ecommerce_website_name"),
        number("payment_txn_id"),
        text("payment_txn_success"),
        Field::new("failure_reason", DataType::Utf8, true),
    ]))
});

/// The 16 columns of an order, in the field order of a CSV line.
///
/// `price` is `Decimal128(18, 2)`, `datetime` is `Timestamp(Millisecond, None)` as all of the engine's timestamps are, and
/// `payment_txn_id` is `Int64` as the other numbers that name something.
pub fn schema() -> SchemaRef {
    SCHEMA.clone()
}

impl Record for Order {
    fn schema() -> orderflow_core::Result<SchemaRef> {
        Ok(schema())
    }
}

/// The topic of a payment type: `orders.<slug>`, and `orders.type-<slug>` where that would be no name or the name of another topic.
pub fn payment_topic(payment_type: &str) -> String {
    match slug(payment_type).as_str() {
        taken @ ("" | "successful" | "failed") => format!("orders.type-{taken}"),
        slug => format!("orders.{slug}"),
    }
}

/// Lower case, runs of characters other than ASCII letters and digits become one `-`, ends trimmed: safe in the name of a topic.
///
/// A letter outside ASCII is one of the other characters, also where its lower case is an ASCII letter (the Kelvin sign).
pub fn slug(text: &str) -> String {
    let mut slug = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    if slug.ends_with('-') {
        slug.pop();
    }
    slug
}

/// Reads `2021-01-10 10:12`, with or without seconds and their fraction, with a space or a `T` in the middle.
///
/// # Errors
/// What the text should look like.
pub fn parse_datetime(text: &str) -> orderflow_core::Result<NaiveDateTime> {
    const FORMS: [&str; 4] = ["%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"];
    let parsed = FORMS.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    parsed.ok_or_else(|| {
        orderflow_core::Error::user(format!("'{text}' is not a date and time"))
            .hint("write it as 2021-01-10 10:12, with or without seconds")
    })
}

fn write_datetime<S: Serializer>(datetime: &NaiveDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&datetime.format("%Y-%m-%dT%H:%M:%S%.f"))
}

fn read_datetime<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NaiveDateTime, D::Error> {
    struct Text;
    impl serde::de::Visitor<'_> for Text {
        type Value = NaiveDateTime;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a date and time like 2021-01-10 10:12")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<NaiveDateTime, E> {
            parse_datetime(text).map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
        }
    }
    // a hint of text and not of anything: Arrow's timestamps answer the latter with a bare number
    deserializer.deserialize_str(Text)
}

fn none_if_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|reason| !reason.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_six_known_payment_types_have_the_topics_of_the_contract() {
        let topics: Vec<_> = PAYMENT_TYPES.iter().map(|t| payment_topic(t)).collect();
        assert_eq!(topics, ["orders.card", "orders.internet-banking", "orders.upi", "orders.wallet", "orders.google-pay", "orders.paytm"]);
    }

    #[test]
    fn a_slug_holds_lower_case_letters_digits_and_single_inner_dashes() {
        for (text, expected) in [
            ("Card", "card"),
            ("  Net   Banking  ", "net-banking"),
            ("--A__b..C--", "a-b-c"),
            ("3D Secure 2", "3d-secure-2"),
            ("Crédit Agricole", "cr-dit-agricole"),
            ("ÄÖÜ", ""),
            ("現金", ""),
            ("現金 Cash 現金", "cash"),
            ("Pay💳Later", "pay-later"),
            ("\u{212A}elvin", "elvin"),
            ("İyzico", "yzico"),
            ("\t\n", ""),
            ("", ""),
            ("-", ""),
            ("a\0b", "a-b"),
        ] {
            assert_eq!(slug(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_slug_that_is_empty_or_taken_gets_a_topic_of_its_own() {
        for (payment_type, topic) in [
            ("", "orders.type-"),
            ("現金", "orders.type-"),
            ("successful", "orders.type-successful"),
            ("Successful!", "orders.type-successful"),
            ("FAILED", "orders.type-failed"),
            ("failed payment", "orders.failed-payment"),
            ("unsuccessful", "orders.unsuccessful"),
            ("google  pay", "orders.google-pay"),
        ] {
            assert_eq!(payment_topic(payment_type), topic, "{payment_type:?}");
        }
    }

    proptest! {
        #[test]
        fn every_slug_is_a_legal_part_of_a_topic_name(text in any::<String>()) {
            let s = slug(&text);
            prop_assert!(s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            prop_assert!(!s.contains("--") && !s.starts_with('-') && !s.ends_with('-'));
            prop_assert_eq!(slug(&s), s.clone(), "a slug is its own slug");
            let topic = payment_topic(&text);
            prop_assert!(topic != SUCCESSFUL_TOPIC && topic != FAILED_TOPIC && topic != TOPIC && topic != "orders.");
        }
    }

    #[test]
    fn a_datetime_may_have_seconds_or_not() {
        let parse = |t: &str| parse_datetime(t).map(|d| d.to_string());
        assert_eq!(parse("2021-01-10 10:12").unwrap(), "2021-01-10 10:12:00");
        assert_eq!(parse("2021-01-10 10:12:30").unwrap(), "2021-01-10 10:12:30");
        assert_eq!(parse("2021-01-10T10:12:30.250").unwrap(), "2021-01-10 10:12:30.250");
        assert_eq!(parse("2024-02-29 00:00").unwrap(), "2024-02-29 00:00:00");
        for bad in [
            "",
            "2021-02-29 10:12",
            "2021-01-10",
            "2021-01-10 24:00",
            "2021-01-10 10:60",
            "10:12",
            "2021-01-10 10:12 PM",
            "2021-13-01 00:00",
        ] {
            assert!(parse_datetime(bad).is_err(), "{bad:?}");
        }
    }

    fn order(qty: i64, price: &str) -> Order {
        let json = format!(
            r#"{{"order_id":1,"customer_id":2,"customer_name":"Neo","product_id":3,"product_name":"Pen","product_category":"Stationery",
                "payment_type":"Card","qty":{qty},"price":{price},"datetime":"2021-01-10 10:12","country":"India","city":"Mumbai",
                "ecommerce_website_name":"www.amazon.com","payment_txn_id":4,"payment_txn_success":"Y","failure_reason":""}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn amounts_are_exact_where_floats_are_not() {
        assert_eq!(order(3, "\"0.10\"").amount().to_string(), "0.30");
        assert_eq!(order(3, "0.1").amount(), Decimal::new(3, 1));
        assert_eq!(order(9_999_999_999, "\"9999999999999999.99\"").amount().to_string(), "99999999989999999900000000.01");
        assert_eq!(order(i64::MAX, "\"9999999999999999.99\"").amount(), Decimal::MAX);
        assert_eq!(order(i64::MIN, "\"9999999999999999.99\"").amount(), Decimal::MIN);
    }

    #[test]
    fn a_price_may_be_a_number_or_a_text_and_an_empty_reason_is_none() {
        assert_eq!(order(1, "\"4999.50\"").price, order(1, "4999.5").price);
        assert_eq!(order(1, "4999").price, Decimal::from(4999));
        assert_eq!(order(1, "1").failure_reason, None);
    }

    #[test]
    fn the_struct_has_the_fields_of_the_schema_in_their_order() {
        let json = serde_json::to_string(&order(1, "1")).unwrap();
        let mut from = 0;
        for field in schema().fields() {
            let at = json[from..].find(&format!("\"{}\":", field.name()));
            from += at.unwrap_or_else(|| panic!("{} is missing or out of order in {json}", field.name()));
        }
        assert_eq!(json.matches("\":").count(), 16);
        assert_eq!(serde_json::from_str::<Order>(&json).unwrap(), order(1, "1"), "what is written can be read");
    }
}
