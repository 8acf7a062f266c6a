//! What is refused because it cannot be kept up to date, replayed, or is not looked at by DataFusion's planner: by name, with the way around it.

use super::*;

#[test]
fn modifiers_are_refused_in_an_expression_as_in_a_query() {
    let catalog = catalog();
    let orders = catalog.source_scan("orders").unwrap();
    let e = catalog.expr("abs(qty) FILTER (WHERE qty > 2) AS n", &orders).unwrap_err();
    assert!(e.to_string().starts_with("abs takes no FILTER: it is no aggregate at line 1, column 1") && e.remedy().is_some(), "{e}");
    assert!(catalog.expr("abs(qty) AS n", &orders).is_ok());
}

#[test]
fn what_a_stream_cannot_do_is_refused_by_name() {
    for (text, expected) in [
        (
            "SELECT * FROM orders ORDER BY city",
            "ORDER BY cannot be kept up to date on a stream: a view has no order: rows come and go one by one\n  hint: leave it out here and sort the view when you read it: query(\"SELECT … FROM view ORDER BY … LIMIT …\")",
        ),
        (
            "SELECT city FROM orders WHERE datetime > now() - INTERVAL '1 day'",
            "now() is not allowed here: the time of evaluation would change the answer when an epoch is replayed; it is allowed only as a temporal filter, which is not available yet\n  hint: use the event-time column, or _timestamp, the record's own",
        ),
        (
            "SELECT sum(CASE WHEN random() > 0.5 THEN 1 ELSE 0 END) FROM orders",
            "random() is not allowed: it gives another answer every time, and a replayed epoch must give the same output again\n  hint: derive the value from the row: from a key, or from _partition and _offset",
        ),
        (
            "SELECT sum(weight) AS w FROM orders",
            "sum(orders.weight) cannot be kept up to date: a sum of floats depends on the order of the rows\n  hint: cast it to a decimal: CAST(orders.weight AS DECIMAL(18, 2))",
        ),
        (
            "SELECT sum(DISTINCT qty) FROM orders",
            "sum(DISTINCT orders.qty) cannot be kept up to date: only count takes DISTINCT\n  hint: take sum over (SELECT DISTINCT …)",
        ),
    ] {
        assert_eq!(refused(text), expected, "{text}");
    }
    for (text, begins) in [
        ("SELECT * FROM orders LIMIT 3", "LIMIT and OFFSET cannot"),
        ("SELECT * FROM orders OFFSET 3", "LIMIT and OFFSET cannot"),
        ("SELECT * FROM (SELECT * FROM orders ORDER BY city LIMIT 3)", "LIMIT and OFFSET cannot"),
        ("SELECT * FROM (SELECT * FROM orders ORDER BY city)", "ORDER BY cannot"),
        ("SELECT * FROM orders, totals", "a join cannot"),
        ("SELECT * FROM orders JOIN totals USING (city)", "a join cannot"),
        ("SELECT row_number() OVER (ORDER BY qty) FROM orders", "a window function (OVER) cannot"),
        ("SELECT city FROM orders QUALIFY row_number() OVER (PARTITION BY city) = 1", "a window function (OVER) cannot"),
        ("WITH RECURSIVE x AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM x) SELECT * FROM x", "WITH RECURSIVE cannot"),
        ("VALUES (1)", "VALUES cannot"),
        ("SELECT * FROM (VALUES (1)) t(a)", "VALUES cannot"),
        ("SELECT city, count(*) FROM orders GROUP BY ROLLUP (city)", "GROUPING SETS, CUBE and ROLLUP cannot"),
        ("SELECT city, count(*) FROM orders GROUP BY CUBE (city, qty)", "GROUPING SETS, CUBE and ROLLUP cannot"),
        ("SELECT city, count(*) FROM orders GROUP BY GROUPING SETS ((city), ())", "GROUPING SETS, CUBE and ROLLUP cannot"),
        ("SELECT city FROM orders WHERE city IN (SELECT city FROM totals)", "a subquery inside an expression cannot"),
        ("SELECT city FROM orders WHERE EXISTS (SELECT 1 FROM totals)", "a subquery inside an expression cannot"),
        ("SELECT (SELECT max(amount) FROM totals) FROM orders", "a subquery inside an expression cannot"),
        ("SELECT unnest([1,2]) FROM orders", "UNNEST cannot"),
        ("SELECT city FROM orders INTERSECT SELECT city FROM totals", "INTERSECT cannot"),
        ("SELECT city FROM orders EXCEPT SELECT city FROM totals", "EXCEPT cannot"),
        ("SELECT stddev(qty) FROM orders", "stddev(orders.qty) cannot be kept up to date: the aggregate stddev"),
        ("SELECT approx_distinct(qty) FROM orders", "approx_distinct(orders.qty) cannot be kept up to date: an approximate"),
        (
            "SELECT array_agg(qty ORDER BY qty) FROM orders",
            "array_agg(orders.qty) ORDER BY [orders.qty ASC NULLS LAST] cannot be kept up to date: ORDER BY",
        ),
        ("SELECT avg(DISTINCT price) FROM orders", "avg(DISTINCT orders.price) cannot"),
        ("SELECT avg(weight) FROM orders", "avg(orders.weight) cannot"),
        ("SELECT count(DISTINCT qty, price) FROM orders", "count(DISTINCT orders.qty, orders.price) cannot"),
        ("SELECT uuid() FROM orders", "uuid() is not allowed"),
        ("SELECT count(*) FILTER (WHERE qty > random()) FROM orders", "random() is not allowed"),
        ("SELECT count(*) FROM orders GROUP BY random()", "random() is not allowed"),
        ("SELECT current_date FROM orders", "current_date() is not allowed here"),
        ("SELECT current_timestamp FROM orders", "now() is not allowed here"),
        ("SELECT current_time FROM orders", "current_time() is not allowed here"),
        ("SELECT DISTINCT ON (city) city, qty FROM orders", "DISTINCT ON cannot"),
        ("SELECT 1", "SELECT without FROM cannot"),
        ("SELECT * FROM orders TABLESAMPLE BERNOULLI (10)", "TABLESAMPLE cannot"),
        ("SELECT * FROM generate_series(1, 3)", "a table function cannot"),
        // what DataFusion's planner would drop without a word
        ("SELECT city, count(*) FROM orders GROUP BY city WITH ROLLUP", "GROUP BY … WITH ROLLUP cannot"),
        ("SELECT city, count(*) FROM orders GROUP BY city WITH CUBE", "GROUP BY … WITH CUBE cannot"),
        ("SELECT city, count(*) FROM orders GROUP BY ALL WITH TOTALS", "GROUP BY … WITH TOTALS cannot"),
        ("SELECT city, count(*) FROM orders GROUP BY city GROUPING SETS ((city), ())", "GROUP BY … GROUPING SETS"),
        ("SELECT * FROM (SELECT city FROM orders GROUP BY city WITH TOTALS)", "GROUP BY … WITH TOTALS cannot"),
        ("WITH x(city INT) AS (SELECT city FROM orders) SELECT city FROM x", "a type after a column's alias cannot"),
        ("SELECT t.town FROM totals AS t(town INT, amount INT)", "a type after a column's alias cannot"),
        ("SELECT t.town FROM (SELECT city FROM orders) AS t(town INT)", "a type after a column's alias cannot"),
        ("SELECT city FROM orders FOR UPDATE", "FOR UPDATE or FOR SHARE cannot"),
        ("SELECT city FROM orders FOR JSON AUTO", "FOR XML, FOR JSON or FOR BROWSE cannot"),
        ("SELECT city FROM orders SETTINGS max_threads = 1", "SETTINGS cannot"),
        ("SELECT city FROM orders FORMAT JSONCompact", "FORMAT cannot"),
        ("SELECT city FROM orders PARTITION (p0)", "PARTITION (…) after a table cannot"),
        ("SELECT city FROM orders WITH ORDINALITY", "WITH ORDINALITY cannot"),
        ("SELECT city FROM orders WITH (NOLOCK)", "WITH (…) after a table cannot"),
        ("SELECT abs(qty) FILTER (WHERE qty > 2) FROM orders", "abs takes no FILTER: it is no aggregate at line 1, column 8"),
        ("SELECT sum(abs(DISTINCT qty)) FROM orders", "abs takes no DISTINCT"),
        ("SELECT upper(city) OVER () FROM orders", "upper takes no OVER: it is no window function"),
        ("SELECT city FROM orders WHERE abs(qty ORDER BY qty) > 1", "abs takes no ORDER BY"),
        ("SELECT abs(qty) WITHIN GROUP (ORDER BY qty) FROM orders", "abs takes no WITHIN GROUP"),
        ("SELECT upper(city) IGNORE NULLS FROM orders", "upper takes no IGNORE or RESPECT NULLS"),
        ("SELECT sum(0.5)(qty) FROM orders", "sum takes no second list of arguments"),
        ("SELECT $1 FROM orders", "the parameter $1 has no value"),
        ("INSERT INTO orders VALUES (1)", "INSERT is not possible here"),
        ("CREATE TABLE x (a INT)", "CREATE is not possible here"),
        ("EXPLAIN SELECT * FROM orders", "EXPLAIN is not possible here"),
        ("SELECT 1; SELECT 2", "`SELECT 1; SELECT 2` is not one statement"),
        ("", "`` is not one statement"),
    ] {
        let e = refused(text);
        assert!(e.starts_with(begins), "{text}: {e}");
        assert!(e.contains("\n  hint: "), "{text}: {e}");
    }
    for text in [
        "SELECT min(DISTINCT qty), max(weight) FROM orders",
        "SELECT city, sum(qty) FROM orders GROUP BY ALL HAVING count(*) > 2",
        "SELECT n, count(*) FROM (SELECT city, count(*) AS n FROM orders GROUP BY city) GROUP BY n",
        "SELECT count(DISTINCT city) FILTER (WHERE qty > 2) FROM orders",
        "SELECT sum(CAST(weight AS DECIMAL(18, 2))), avg(qty), avg(price) FROM orders",
        "SELECT to_timestamp(city), date_trunc('month', datetime), regexp_replace(city, 'a', 'b'), sha256(city), encode(city, 'hex'), sqrt(weight), array_length(make_array(qty, 1)), initcap(city), character_length(city) FROM orders",
    ] {
        let c = catalog();
        c.sql(text).and_then(|plan| c.check(&plan)).unwrap_or_else(|e| panic!("{text}: {e}"));
    }
}
