//! The corpus of restoring: cases that a naive rule of what is stored gets wrong, each run, stored, stopped and restored, and compared with the run that
//! never stopped at every later epoch, at several numbers of workers.
//!
//! What needs verbs that are not there yet: joins, windows and EMIT FINAL, sessions, interval joins, top-k, temporal filters, process functions and their timers.
//!
//! Invariant: the run that never stopped is the batch computation itself, so that both cannot be wrong alike.

mod input;
mod run;

use input::{ROUNDS, Round, Row, STORED, appended, drawn, order, schema, scripted};
use orderflow_core::pipeline::Stream;
use orderflow_core::plan::typed::Record;
use orderflow_core::source::memory;
use orderflow_core::{Pipeline, Result};
use run::{Case, Outcome, built, check, routed, view};
use serde::{Deserialize, Serialize};

/// What is stored, each state by the views that can be read from it: what is derived from others is not among it.
fn states(outcome: &Outcome) -> String {
    outcome.stored.iter().map(|views| views.join("+")).collect::<Vec<_>>().join(" ")
}

/// The rows of a view after the round of the first checkpoint.
fn at_the_checkpoint<'a>(outcome: &'a Outcome, view: &str) -> &'a [String] {
    &outcome.answers[STORED - 1][view]
}

/// Whether a later round holds a row of which `what` is a part.
fn comes_later(outcome: &Outcome, view: &str, what: &str) -> bool {
    outcome.answers[STORED..].iter().any(|answers| answers[view].iter().any(|row| row.contains(what)))
}

/// How many lines of a sink withdraw rows after the first checkpoint.
fn withdrawn(outcome: &Outcome, view: &str) -> usize {
    let later = |line: &&str| (STORED + 1..=ROUNDS).any(|epoch| line.ends_with(&format!(",\"epoch\":{epoch}}}")));
    outcome.rows[view].lines().filter(later).filter(|line| line.contains(",\"diff\":-")).count()
}

#[tokio::test]
async fn a_union_of_a_source_and_an_aggregate_of_another_source_grouped() {
    let views = [
        view("totals", "SELECT city, count(*) AS n, sum(qty) AS qty FROM refunds GROUP BY city"),
        view("both", "SELECT city, qty FROM orders UNION ALL SELECT city, qty FROM totals"),
        view("summed", "SELECT city, count(*) AS n, sum(qty) AS qty, max(qty) AS most FROM both GROUP BY city"),
        view(
            "at_once",
            "SELECT city, count(*) AS n, min(qty) AS least, count(DISTINCT qty) AS kinds \
             FROM (SELECT city, qty FROM orders WHERE qty > 0 UNION ALL SELECT city, n FROM totals) GROUP BY city",
        ),
        view("sizes", "SELECT n, count(*) AS cities, max(most) AS most FROM summed GROUP BY n"),
    ];
    let outcome = check(&Case::new(views, drawn(1))).await;
    assert_eq!(states(&outcome), "at_once both summed totals");
    assert!(withdrawn(&outcome, "both") > 2 && withdrawn(&outcome, "sizes") > 2);
}

#[derive(Serialize, Deserialize)]
struct Order {
    city: Option<String>,
    qty: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct Part {
    city: Option<String>,
    part: i64,
}

#[derive(Serialize, Deserialize)]
struct Total {
    city: Option<String>,
    n: i64,
}

#[derive(Serialize, Deserialize)]
struct Twice {
    city: Option<String>,
    twice: i64,
}

impl Record for Order {}
impl Record for Part {}
impl Record for Total {}
impl Record for Twice {}

/// Two rows of each order, by closures over the source.
fn parts(flow: &mut Pipeline) -> Result<Stream> {
    let orders = flow.sql("SELECT city, qty FROM orders")?.rows::<Order>()?.filter("ordered", 1, |o| o.qty > Some(0))?;
    let split = |o: &Order| (0..2).map(|part| Part { city: o.city.clone(), part }).collect::<Vec<_>>();
    orders.flat_map("parts", 1, split)?.view("parts")
}

/// The cities with more than one order, by closures over an aggregate.
fn often(flow: &mut Pipeline) -> Result<Stream> {
    let totals = flow.sql("SELECT city, n FROM totals")?.rows::<Total>()?.filter("often", 1, |t| t.n > 1)?;
    totals.map("twice", 1, |t| Twice { city: t.city.clone(), twice: 2 * t.n })?.view("often")
}

#[tokio::test]
async fn an_arrangement_below_a_closure_does_not_show_its_rows_twice() {
    let parts_of = "SELECT city, 0 AS part FROM orders WHERE qty > 0 UNION ALL SELECT city, 1 AS part FROM orders WHERE qty > 0";
    let views = [
        view("totals", "SELECT city, count(*) AS n FROM orders GROUP BY city"),
        built("often", "SELECT city, 2 * n AS twice FROM totals WHERE n > 1", often),
        view("of_often", "SELECT twice % 3 AS third, count(*) AS cities, sum(twice) AS twice FROM often GROUP BY twice % 3"),
        built("parts", parts_of, parts),
        view("of_parts", "SELECT city, count(*) AS n, max(part) AS most FROM parts GROUP BY city"),
        view("sizes", "SELECT n, count(*) AS cities FROM of_parts GROUP BY n"),
    ];
    let outcome = check(&Case::new(views, drawn(2))).await;
    assert_eq!(states(&outcome), "of_parts parts totals");
    assert!(withdrawn(&outcome, "often") > 0 && withdrawn(&outcome, "parts") > 0);
}

#[tokio::test]
async fn a_root_ignores_what_it_has_when_all_is_read_again_for_a_view_that_is_new() {
    let views = [
        view(
            "totals",
            "SELECT city, count(*) AS n, sum(qty) AS qty, min(price) AS low, count(DISTINCT qty) AS kinds FROM orders GROUP BY city",
        ),
        view("larger", "SELECT city, qty FROM orders WHERE qty > 1"),
        view("sizes", "SELECT n, count(*) AS cities, max(low) AS low FROM totals GROUP BY n"),
        view("whole", "SELECT count(*) AS n, max(qty) AS most FROM larger"),
        // reads the same source from the beginning
        view("prices", "SELECT price, count(*) AS n FROM orders GROUP BY price"),
    ];
    let case = Case { later: 1, keep: true, ..Case::new(views, drawn(3)) };
    let outcome = check(&case).await;
    assert_eq!(states(&outcome), "larger prices totals whole");
    assert!(withdrawn(&outcome, "totals") > 2);
}

#[tokio::test]
async fn a_partition_or_an_offset_below_a_root_with_later_retractions() {
    let views = [
        view("placed", "SELECT city, _partition AS part, _offset AS place FROM orders WHERE qty > 0"),
        view(
            "lasts",
            "SELECT city, max(_offset) AS newest, min(_partition) AS part, count(DISTINCT _partition) AS parts FROM orders GROUP BY city",
        ),
        view("spread", "SELECT newest % 3 AS third, count(*) AS cities, sum(newest) AS places FROM lasts GROUP BY newest % 3"),
        view(
            "places",
            "SELECT place, count(*) AS n FROM (SELECT place FROM placed UNION ALL SELECT newest AS place FROM lasts) GROUP BY place",
        ),
        view("refunded", "SELECT _partition AS part, max(_offset) AS newest, sum(qty) AS qty FROM refunds GROUP BY _partition"),
        routed("moved", "SELECT city, qty, _partition AS part, _offset AS place FROM orders WHERE qty <= 0"),
    ];
    let case = Case { records: true, ..Case::new(views, appended(4)) };
    let outcome = check(&case).await;
    assert_eq!(states(&outcome), "lasts placed places refunded");
    assert!(withdrawn(&outcome, "lasts") > 2 && withdrawn(&outcome, "places") > 0);
}

#[tokio::test]
async fn a_timestamp_a_topic_or_a_key_below_a_root_with_later_retractions() {
    let views = [
        view("told", "SELECT city, _timestamp AS stamp, _topic AS topic, _key AS id FROM orders WHERE qty > 0"),
        view(
            "lasts",
            "SELECT city, max(_timestamp) AS newest, min(_key) AS id, max(_topic) AS topic, count(DISTINCT _key) AS ids FROM orders GROUP BY city",
        ),
        view(
            "by_key",
            "SELECT _key AS id, count(*) AS n, count(_timestamp) AS stamps, max(_timestamp) AS newest FROM orders GROUP BY _key",
        ),
        view("ages", "SELECT newest, count(*) AS cities, min(id) AS id FROM lasts GROUP BY newest"),
        view(
            "moments",
            "SELECT stamp, count(*) AS n FROM (SELECT stamp FROM told UNION ALL SELECT newest AS stamp FROM lasts) GROUP BY stamp",
        ),
        view(
            "either",
            "SELECT _topic AS topic, _key AS id, _timestamp AS stamp FROM orders \
             UNION ALL SELECT _topic AS topic, _key AS id, _timestamp AS stamp FROM refunds",
        ),
        view("by_topic", "SELECT topic, id, count(*) AS n, min(stamp) AS earliest FROM either GROUP BY topic, id"),
        routed("moved", "SELECT city, qty, _timestamp AS stamp, _topic AS topic, _key AS id FROM orders WHERE qty <= 0"),
    ];
    let case = Case { records: true, ..Case::new(views, appended(18)) };
    let outcome = check(&case).await;
    assert_eq!(states(&outcome), "by_key by_topic either lasts moments told");
    assert!(withdrawn(&outcome, "lasts") > 2 && withdrawn(&outcome, "by_key") > 2 && withdrawn(&outcome, "ages") > 0);
    for (name, without) in [("told", "\"stamp\":null"), ("told", "\"id\":null"), ("either", "\"topic\":\"refunds\"")] {
        let rows = at_the_checkpoint(&outcome, name);
        assert!(rows.iter().any(|row| row.contains(without)) && rows.iter().any(|row| !row.contains(without)), "{name}: {without}");
    }
}

#[tokio::test]
async fn dead_letters_and_their_counts() {
    let whole = "SELECT city, qty + 9223372036854775800 AS big FROM orders WHERE qty <= 7 OR qty IS NULL";
    let alone = "SELECT city, min(qty) + 9223372036854775000 AS wide FROM orders GROUP BY city HAVING count(qty) < 2";
    let views = [
        view("everything", "SELECT city, qty FROM orders"),
        // more than seven is too many
        view("big", "SELECT city, qty + 9223372036854775800 AS big FROM orders").answers(whole),
        view("totals", "SELECT city, count(*) AS n FROM orders GROUP BY city"),
        // a group of two such rows has no sum that fits
        view("wide", "SELECT city, sum(qty + 9223372036854775000) AS wide FROM orders GROUP BY city").answers(alone),
        // the rows of what is stored, of which some are refused
        view("huge", "SELECT city, n + 9223372036854775805 AS huge FROM totals")
            .answers("SELECT city, n + 9223372036854775805 AS huge FROM totals WHERE n <= 2"),
        view("huges", "SELECT count(*) AS n, min(huge) AS least FROM huge"),
    ];
    let (eight, one) = (order(Some(1), Some(8)), order(Some(7), Some(1)));
    let mut rounds = drawn(5);
    for (round, changes) in [(1, (eight, 2)), (4, (eight, -1)), (6, (eight, -1)), (0, (one, 3)), (3, (one, -2)), (5, (one, 1))] {
        rounds[round][0].push(changes);
    }
    let outcome = check(&Case::new(views, rounds)).await;
    assert_eq!(states(&outcome), "big everything totals wide");
    for (name, of) in [("big", "everything"), ("wide", "totals"), ("huge", "totals")] {
        for (round, answers) in (1..).zip(&outcome.answers) {
            let refused = (answers[of].len() - answers[name].len()) as i64;
            assert_eq!(outcome.letters(name, round), refused, "letters of {name} after epoch {round}");
        }
        assert!(outcome.letters(name, STORED) > 0, "{name}");
    }
    assert!(withdrawn(&outcome, run::LETTERS) > 2, "what is refused no more");
}

#[tokio::test]
async fn a_view_that_is_just_a_filter_of_a_source() {
    let views = [
        view("larger", "SELECT city, qty, price FROM orders WHERE qty > 1"),
        view("everything", "SELECT * FROM orders"),
        view("fewer", "SELECT city, qty + 1 AS more FROM larger WHERE price < 3"),
        view("twice", "SELECT city, qty FROM larger UNION ALL SELECT city, qty FROM refunds WHERE qty > 1"),
        routed("direct", "SELECT city, price FROM larger WHERE qty < 6"),
    ];
    let outcome = check(&Case::new(views, drawn(6))).await;
    assert_eq!(states(&outcome), "everything fewer larger twice");
    assert!(withdrawn(&outcome, "larger") > 0 && !at_the_checkpoint(&outcome, "larger").is_empty());
}

#[tokio::test]
async fn sums_of_floats_are_sums_of_decimals() {
    let views = [
        view(
            "weights",
            "SELECT city, sum(CAST(weight AS DECIMAL(18, 6))) AS weight, avg(CAST(weight AS DECIMAL(18, 6))) AS mean, min(weight) AS least, \
             max(weight) AS most, count(DISTINCT weight) AS kinds FROM orders GROUP BY city",
        ),
        view("by_weight", "SELECT weight, count(*) AS n FROM orders GROUP BY weight"),
        view("mosts", "SELECT most, count(*) AS cities, sum(weight) AS weight FROM weights GROUP BY most"),
        view("twice", "SELECT DISTINCT weight * 2 AS twice FROM orders"),
    ];
    let outcome = check(&Case::new(views, drawn(7))).await;
    assert_eq!(states(&outcome), "by_weight twice weights");
    assert!(withdrawn(&outcome, "weights") > 2);
}

#[test]
fn what_would_not_come_back_the_same_is_no_view() {
    for (query, says) in [
        ("SELECT sum(weight) AS weight FROM orders", "floats"),
        ("SELECT avg(weight) AS weight FROM orders", "floats"),
        ("SELECT approx_distinct(qty) AS kinds FROM orders", "approximate"),
        ("SELECT city, now() AS moment FROM orders", "now"),
        ("SELECT city, random() AS id FROM orders", "random"),
        ("SELECT row_number() OVER () AS id, city FROM orders", "window function"),
        ("SELECT first_value(qty) AS first FROM orders", "first_value"),
        ("SELECT last_value(qty) AS last FROM orders", "last_value"),
        ("SELECT city, qty FROM orders LIMIT 3", "LIMIT"),
    ] {
        let (_sender, source) = memory::channel(schema(), 1);
        let mut flow = Pipeline::new("refused");
        flow.source("orders", source).unwrap();
        let e = flow.view("refused", query).err().unwrap_or_else(|| panic!("{query} is taken"));
        assert!(e.to_string().contains(says) && e.remedy().is_some(), "{query}: {e}");
    }
}

#[tokio::test]
async fn a_view_created_after_the_checkpoint() {
    let views = [
        view("totals", "SELECT city, count(*) AS n, sum(qty) AS qty FROM orders GROUP BY city"),
        // of the source, of what is stored, of both, and of a view that is new itself
        view("larger", "SELECT city, qty, price FROM orders WHERE qty > 0"),
        view("sizes", "SELECT n, count(*) AS cities, max(qty) AS most FROM totals GROUP BY n"),
        view("both", "SELECT city, qty FROM larger UNION ALL SELECT city, qty FROM totals"),
        view("refunded", "SELECT city, avg(price) AS mean, min(qty) AS least FROM refunds GROUP BY city"),
        view("kinds", "SELECT DISTINCT qty FROM both"),
    ];
    let case = Case { later: 5, keep: true, ..Case::new(views, drawn(8)) };
    let outcome = check(&case).await;
    assert_eq!(states(&outcome), "both kinds larger refunded totals");
    assert!(withdrawn(&outcome, "totals") > 2);
}

#[tokio::test]
async fn a_sink_added_later_gets_what_its_view_holds_and_checkpoints_become_complete_again() {
    let views = [
        view("totals", "SELECT city, count(*) AS n, sum(qty) AS qty, max(qty) AS most FROM orders GROUP BY city"),
        view("larger", "SELECT city, qty FROM orders WHERE qty > 0"),
        view("sizes", "SELECT n, count(*) AS cities FROM totals GROUP BY n"),
        routed("added", "SELECT city, n, most FROM totals WHERE n > 0"),
    ];
    // of what is stored no input is needed again
    let outcome = check(&Case { later: 1, ..Case::new(views, drawn(10)) }).await;
    assert_eq!(states(&outcome), "larger totals");
    assert!(withdrawn(&outcome, "added") > 2);
    let views = [
        view("totals", "SELECT city, count(*) AS n FROM orders GROUP BY city"),
        view("larger", "SELECT city, qty FROM orders WHERE qty > 0"),
        routed("added", "SELECT city, qty FROM larger WHERE qty < 8"),
    ];
    let outcome = check(&Case { later: 1, keep: true, ..Case::new(views, drawn(11)) }).await;
    assert_eq!(states(&outcome), "larger totals");
    assert!(withdrawn(&outcome, "added") > 0);
}

#[tokio::test]
async fn averages_extremes_and_distinct_counts_with_later_retractions() {
    let views = [
        view(
            "figures",
            "SELECT city, avg(qty) AS mean, avg(price) AS mean_price, min(qty) AS least, max(qty) AS most, min(price) AS low, max(price) AS high, \
             count(DISTINCT qty) AS kinds, count(*) FILTER (WHERE qty > 2) AS large, sum(price) FILTER (WHERE qty < 4) AS cheap \
             FROM orders GROUP BY city",
        ),
        view("kinds", "SELECT DISTINCT city, qty FROM orders"),
        view("whole", "SELECT count(DISTINCT qty) AS kinds, min(qty) AS least, max(price) AS high, avg(price) AS mean FROM orders"),
        view("mosts", "SELECT most, count(*) AS cities, min(low) AS low, count(DISTINCT kinds) AS kinds FROM figures GROUP BY most"),
        view("of_kinds", "SELECT city, count(*) AS n, max(qty) AS most FROM kinds GROUP BY city"),
    ];
    let outcome = check(&Case::new(views, drawn(12))).await;
    assert_eq!(states(&outcome), "figures kinds whole");
    assert!(withdrawn(&outcome, "figures") > 2 && withdrawn(&outcome, "kinds") > 0 && withdrawn(&outcome, "whole") > 0);
}

#[tokio::test]
async fn aggregates_over_aggregates_over_a_union() {
    let views = [
        view("all_rows", "SELECT city, qty FROM orders UNION ALL SELECT city, qty FROM refunds"),
        view("totals", "SELECT city, count(*) AS n, sum(qty) AS qty FROM all_rows GROUP BY city"),
        view("thirds", "SELECT n % 3 AS third, count(*) AS cities, sum(qty) AS qty, max(qty) AS most FROM totals GROUP BY n % 3"),
        view("over_all", "SELECT count(*) AS thirds, max(most) AS most, count(DISTINCT cities) AS sizes FROM thirds"),
        view("cities", "SELECT city FROM orders UNION SELECT city FROM refunds"),
        view("how_many", "SELECT count(*) AS cities, min(city) AS first FROM cities"),
    ];
    let outcome = check(&Case::new(views, drawn(13))).await;
    assert_eq!(states(&outcome), "all_rows cities totals");
    assert!(withdrawn(&outcome, "thirds") > 2 && withdrawn(&outcome, "over_all") > 0);
}

#[tokio::test]
async fn a_view_that_is_empty_at_the_checkpoint() {
    let views = [
        view("rare", "SELECT city, qty FROM orders WHERE qty > 100"),
        view("totals", "SELECT city, count(*) AS n, max(qty) AS most FROM orders WHERE qty > 100 GROUP BY city"),
        view("whole", "SELECT count(*) AS n, sum(qty) AS qty, max(qty) AS most FROM orders WHERE qty > 100"),
        view("kinds", "SELECT DISTINCT qty FROM rare"),
        view("sizes", "SELECT n, count(*) AS cities FROM totals GROUP BY n"),
        view("over_all", "SELECT count(*) AS cities, min(most) AS least FROM totals"),
    ];
    let rare = order(Some(1), Some(200));
    let mut rounds: Vec<Round> = drawn(14);
    for (round, n) in [(3, 1), (4, 1), (5, -2), (6, 1)] {
        rounds[round][0].push((rare, n));
    }
    let outcome = check(&Case::new(views, rounds)).await;
    assert_eq!(states(&outcome), "kinds rare totals whole");
    for name in ["rare", "totals", "kinds", "sizes"] {
        assert!(at_the_checkpoint(&outcome, name).is_empty() && !outcome.answers[ROUNDS - 1][name].is_empty(), "{name}");
    }
    assert_eq!(at_the_checkpoint(&outcome, "whole"), ["{\"n\":0,\"qty\":null,\"most\":null}"]);
}

#[tokio::test]
async fn a_group_that_went_before_the_checkpoint_comes_back_after_it() {
    let views = [
        view(
            "totals",
            "SELECT city, count(*) AS n, sum(qty) AS qty, min(price) AS low, count(DISTINCT qty) AS kinds FROM orders GROUP BY city",
        ),
        view("kinds", "SELECT DISTINCT city, qty FROM orders"),
        view("larger", "SELECT city, qty FROM orders WHERE qty > 2"),
        view("sizes", "SELECT n, count(*) AS cities, max(kinds) AS kinds FROM totals GROUP BY n"),
        view("whole", "SELECT count(*) AS n, max(qty) AS most FROM orders"),
    ];
    let (gone, dear) = (order(Some(9), Some(5)), Row { cents: 999, ..order(Some(9), Some(6)) });
    let stays = order(Some(1), Some(3));
    let rounds = scripted([
        &[(gone, 2), (dear, 1), (stays, 1)],
        &[(gone, -1)],
        &[(gone, -1), (dear, -1)],
        &[(stays, 1)],
        &[(dear, 1), (gone, 1)],
        &[(dear, -1), (stays, -2)],
        &[(gone, -1)],
    ]);
    let outcome = check(&Case::new(views, rounds)).await;
    assert_eq!(states(&outcome), "kinds larger totals whole");
    for name in ["totals", "kinds", "larger"] {
        assert!(outcome.answers[0][name].iter().any(|row| row.contains("city 9")), "{name}");
        assert!(!at_the_checkpoint(&outcome, name).iter().any(|row| row.contains("city 9")), "{name}");
        assert!(comes_later(&outcome, name, "city 9") && outcome.answers[ROUNDS - 1][name].is_empty(), "{name}");
    }
}

#[tokio::test]
async fn keys_and_values_that_are_null() {
    let views = [
        view("totals", "SELECT city, count(*) AS n, count(qty) AS known, sum(qty) AS qty, max(qty) AS most FROM orders GROUP BY city"),
        view("by_both", "SELECT city, qty, count(*) AS n FROM orders GROUP BY city, qty"),
        view("kinds", "SELECT DISTINCT qty FROM orders"),
        view("of_no_qty", "SELECT city, price FROM orders WHERE qty IS NULL"),
        view("by_sum", "SELECT qty, count(*) AS cities, min(city) AS first, count(DISTINCT city) AS named FROM totals GROUP BY qty"),
    ];
    let (neither, no_qty, no_city) = (order(None, None), order(Some(2), None), order(None, Some(4)));
    let known = order(Some(2), Some(4));
    let rounds = scripted([
        &[(neither, 2), (no_qty, 1)],
        &[(no_city, 1), (known, 1)],
        &[(no_city, -1), (known, -1)],
        &[(no_city, 1), (neither, -1)],
        &[(known, 1), (no_qty, -1), (neither, -1)],
        &[(no_city, -1), (no_qty, 1)],
        &[(neither, 1), (known, -1)],
    ]);
    let outcome = check(&Case::new(views, rounds)).await;
    assert_eq!(states(&outcome), "by_both kinds of_no_qty totals");
    let none = "{\"city\":null,\"n\":2,\"known\":0,\"qty\":null,\"most\":null}";
    assert!(at_the_checkpoint(&outcome, "totals").iter().any(|row| row == none));
    assert!(comes_later(&outcome, "totals", "\"city\":null,\"n\":2,\"known\":1"));
}

#[tokio::test]
async fn decimals_narrow_and_wide() {
    let views = [
        view(
            "amounts",
            "SELECT city, sum(price) AS price, sum(qty * price) AS amount, avg(price) AS mean, min(price) AS low, max(price) AS high, \
             count(DISTINCT price) AS prices FROM orders GROUP BY city",
        ),
        view(
            "wide",
            "SELECT city, sum(CAST(price AS DECIMAL(30, 4)) * 1000000000000) AS price, max(CAST(price AS DECIMAL(30, 4))) AS high \
             FROM orders GROUP BY city",
        ),
        view("by_price", "SELECT price, count(*) AS n FROM orders GROUP BY price"),
        view("by_high", "SELECT high, sum(amount) AS amount, count(*) AS cities FROM amounts GROUP BY high"),
        view("signs", "SELECT price < 0 AS owed, sum(price) AS price FROM orders GROUP BY price < 0"),
    ];
    let outcome = check(&Case::new(views, drawn(15))).await;
    assert_eq!(states(&outcome), "amounts by_price signs wide");
    assert!(withdrawn(&outcome, "amounts") > 2 && withdrawn(&outcome, "wide") > 2);
}
