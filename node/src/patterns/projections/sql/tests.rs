use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;
use weft_protocol::codec;

use super::*;

fn event(number: usize, data: Value) -> Value {
    json!({ "type": "order.created", "id": number.to_string(), "time": format!("2026-11-{:02}T10:20:30.000Z", number % 28 + 1), "data": data })
}

/// What a statement makes of events, its rows in their order.
fn table(sql: &str, events: &[Value]) -> Vec<Value> {
    let query = Query::parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let mut groups: BTreeMap<Vec<u8>, Group> = query.single().into_iter().collect();
    for event in events {
        let Some((bytes, keys)) = query.group(event).unwrap() else {
            continue;
        };
        let group = groups.entry(bytes).or_insert_with(|| query.fresh(keys));
        query.take(group, event).unwrap();
        // As it comes back from the disk.
        *group = codec::decode(&codec::encode(&*group), 1 << 20, "group").unwrap();
    }
    groups
        .values()
        .filter_map(|group| query.row(group))
        .map(Value::Object)
        .collect()
}

fn orders() -> Vec<Value> {
    let data = [
        json!({ "customer": "bo", "amount": 10, "paid": true }),
        json!({ "customer": "al", "amount": 2.5, "items": [{ "name": "pen" }, { "name": "ink" }] }),
        json!({ "customer": "bo", "amount": 30, "status": "open" }),
        json!({ "customer": "al", "amount": "?", "status": null }),
        json!({ "amount": 1 }),
    ];
    data.into_iter()
        .enumerate()
        .map(|(number, data)| event(number, data))
        .collect()
}

#[test]
fn groups_are_counted_and_summed() {
    let rows = table(
        "SELECT data.customer AS customer, count(*) AS orders, sum(data.amount) AS total FROM orders GROUP BY data.customer",
        &orders(),
    );
    let expected = json!([
        { "customer": null, "orders": 1, "total": 1 },
        { "customer": "al", "orders": 2, "total": 2.5 },
        { "customer": "bo", "orders": 2, "total": 40 },
    ]);
    assert_eq!(json!(rows), expected);
}

#[test]
fn a_group_is_named_by_an_alias_a_number_or_an_expression() {
    for by in ["customer", "1", "upper(data.customer)"] {
        let sql = format!("select upper(data.customer) as customer, count(*) from shop.orders group by {by}");
        let query = Query::parse(&sql).unwrap();
        assert_eq!(query.stream(), "shop.orders");
        assert_eq!(
            json!(table(&sql, &orders()))[1],
            json!({ "customer": "AL", "count": 2 })
        );
    }
}

#[test]
fn everything_that_can_be_gathered() {
    let rows = table(
        "SELECT count(*), count(data.status) AS known, avg(data.amount), min(data.amount), max(data.customer), first(data.customer), \
         last(data.status), sum(data.amount) FILTER (WHERE data.customer = 'bo') AS bo, round(sum(data.amount) / count(*), 2) AS mean FROM o",
        &orders(),
    );
    let expected = json!({
        "count": 5, "known": 1, "avg": 10.875, "min": 1, "max": "bo", "first": "bo", "last": "open", "bo": 40, "mean": 8.7,
    });
    assert_eq!(json!(rows), json!([expected]));
    // One row, whatever the events are.
    let sql = "SELECT count(*), sum(data.amount) FROM o";
    assert_eq!(json!(table(sql, &[])), json!([{ "count": 0, "sum": null }]));
    assert!(table("SELECT type, count(*) FROM o GROUP BY type", &[]).is_empty());
}

#[test]
fn where_and_having_choose() {
    let sql = "SELECT data.customer, count(*) FROM o WHERE data.amount >= 2 GROUP BY data.customer HAVING count(*) > 1";
    assert_eq!(json!(table(sql, &orders())), json!([{ "customer": "bo", "count": 2 }]));
}

#[test]
fn expressions() {
    let data = json!({ "n": 7, "r": 2.5, "t": " Ab%c ", "list": [1, "x", null], "o": { "a b": 1 }, "yes": true, "big": 9_223_372_036_854_775_807_i64 });
    let event = json!({ "type": "k", "time": "2026-11-26T13:14:15.123Z", "data": data });
    for (sql, expected) in [
        ("data.n + 1", json!(8)),
        ("data.n / 2", json!(3.5)),
        ("8 / 2", json!(4)),
        ("data.n % 4", json!(3)),
        ("data.n / 0", json!(null)),
        ("data.n % 0", json!(null)),
        ("-data.r * 2", json!(-5.0)),
        ("data.big + 1", json!(9.223_372_036_854_776e18)),
        ("data.n + data.t", json!(null)),
        ("data.n > 6 AND data.r < 3", json!(true)),
        ("data.nothing > 6 OR data.r < 3", json!(true)),
        ("data.nothing > 6 AND data.r > 3", json!(false)),
        ("data.nothing > 6 AND data.r < 3", json!(null)),
        ("NOT data.yes", json!(false)),
        ("data.nothing IS NULL", json!(true)),
        ("data.n IS NOT NULL", json!(true)),
        ("data.yes IS TRUE", json!(true)),
        ("data.nothing IS NOT TRUE", json!(true)),
        ("data.nothing IS DISTINCT FROM 1", json!(true)),
        ("data.n IN (1, 7)", json!(true)),
        ("data.n IN (1, data.nothing)", json!(null)),
        ("data.n NOT IN (1, 2)", json!(true)),
        ("data.n BETWEEN 7 AND 8", json!(true)),
        ("data.n NOT BETWEEN 7 AND 8", json!(false)),
        ("data.n <> 7", json!(false)),
        ("data.n = '7'", json!(false)),
        ("data->>'n' = '7'", json!(true)),
        ("data->'list'->0", json!(1)),
        ("data.list[1]", json!("x")),
        ("data.list[-1]", json!(null)),
        ("data.list[9]", json!(null)),
        ("data['o']['a b']", json!(1)),
        ("data.o.\"a b\"", json!(1)),
        ("trim(data.t)", json!("Ab%c")),
        ("data.t LIKE '%b\\%c_'", json!(true)),
        ("data.t LIKE 'b%'", json!(false)),
        ("data.t ILIKE ' aB%'", json!(true)),
        ("lower(data.t) || data.n", json!(" ab%c 7")),
        ("length(trim(data.t))", json!(4)),
        ("length(data.list)", json!(3)),
        ("substr(data.t, 2, 2)", json!("Ab")),
        ("substring(data.t FROM 2 FOR 1)", json!("A")),
        ("coalesce(data.nothing, data.n)", json!(7)),
        ("nullif(data.n, 7)", json!(null)),
        ("abs(-3)", json!(3)),
        ("round(2.567, 2)", json!(2.57)),
        ("ceil(data.r)", json!(3)),
        ("floor(data.r)", json!(2)),
        ("CAST('12' AS integer) + 1", json!(13)),
        ("'2.50'::double precision", json!(2.5)),
        ("data.n::text", json!("7")),
        ("CAST('x' AS integer)", json!(null)),
        ("CASE WHEN data.n > 6 THEN 'many' ELSE 'few' END", json!("many")),
        ("CASE data.n WHEN 1 THEN 'one' END", json!(null)),
        ("date_trunc('hour', time)", json!("2026-11-26T13:00:00.000Z")),
        ("date_trunc('week', time)", json!("2026-11-23T00:00:00.000Z")),
        ("date_trunc('quarter', time)", json!("2026-10-01T00:00:00.000Z")),
        ("date_trunc('year', data.t)", json!(null)),
        ("data.nothing.at.all", json!(null)),
    ] {
        let rows = table(
            &format!("SELECT last(coalesce({sql}, 'NULL')) AS v FROM o"),
            std::slice::from_ref(&event),
        );
        let expected = if expected.is_null() { json!("NULL") } else { expected };
        assert_eq!(rows[0]["v"], expected, "{sql}");
    }
}

#[test]
fn what_is_not_understood_is_refused() {
    for (sql, why) in [
        ("", "not one SELECT"),
        ("SELEC 1", "no SQL"),
        ("DELETE FROM o", "not one SELECT"),
        ("SELECT count(*) FROM o; SELECT count(*) FROM o", "not one SELECT"),
        ("SELECT count(*)", "FROM which stream"),
        ("SELECT count(*) FROM a, b", "more than one stream"),
        ("SELECT count(*) FROM a JOIN b ON true", "more than one stream"),
        ("SELECT count(*) FROM o ORDER BY 1", "ORDER BY"),
        ("SELECT count(*) FROM o LIMIT 1", "LIMIT"),
        ("SELECT count(*) FROM o AS x", "nothing else"),
        ("SELECT count(*) FROM (SELECT 1)", "no stream"),
        ("SELECT DISTINCT type FROM o", "DISTINCT"),
        ("SELECT * FROM o", "say which ones"),
        ("SELECT type FROM o", "not the same for all events"),
        ("SELECT type, count(*) FROM o", "not the same for all events"),
        ("SELECT 1 FROM o", "nothing is gathered"),
        ("SELECT count(*) FROM o WHERE count(*) > 1", "whole group"),
        ("SELECT sum(count(*)) FROM o", "whole group"),
        ("SELECT count(DISTINCT type) FROM o", "more than is understood"),
        ("SELECT count(*) OVER () FROM o", "more than is understood"),
        ("SELECT sum(a, b) FROM o", "one expression"),
        ("SELECT sum(*) FROM o", "one expression"),
        ("SELECT count(*), count(*) FROM o", "two columns"),
        ("SELECT count(*) FROM o WHERE random() > 1", "no function random"),
        ("SELECT count(*) FROM o WHERE x IN (SELECT 1)", "not understood"),
        ("SELECT count(*) FROM o WHERE x ~ 'a'", "not understood"),
        ("SELECT count(*) FROM o GROUP BY 2", "no such column"),
        ("SELECT count(*) FROM o GROUP BY ROLLUP (a)", "not understood"),
        ("SELECT count(*) INTO t FROM o", "more in it"),
        ("SELECT count(*) FROM o FOR UPDATE", "more in it"),
        ("SELECT count(*) FROM o UNION SELECT 1", "not one SELECT"),
        ("SELECT count(*) FROM o WHERE x::date = 1", "no cast"),
    ] {
        let error = Query::parse(sql).map(drop).expect_err(sql);
        assert!(error.contains(why), "{sql}: {error}");
    }
    let deep = format!("SELECT count(*) FROM o WHERE {}1{}", "(".repeat(1000), ")".repeat(1000));
    Query::parse(&deep).map(drop).unwrap_err();
    let long = format!("SELECT count(*) FROM o WHERE 1{} > 0", "+1".repeat(2000));
    Query::parse(&long).map(drop).unwrap_err();
    let keys = format!("SELECT count(*) FROM o GROUP BY {}", ["a"; 9].join(","));
    Query::parse(&keys).map(drop).unwrap_err();
}

#[test]
fn what_is_too_large_is_said() {
    let query = Query::parse("SELECT data.k, last(data.v) FROM o GROUP BY data.k").unwrap();
    let large = event(1, json!({ "k": "x".repeat(2000) }));
    assert_eq!(query.group(&large).unwrap_err(), TooLarge::Key(2002));
    let large = event(1, json!({ "k": 1, "v": "x".repeat(20_000) }));
    let (_, keys) = query.group(&large).unwrap().unwrap();
    assert_eq!(query.take(&mut query.fresh(keys), &large).unwrap_err(), TooLarge::Value);
}

#[test]
fn misfits_are_counted() {
    let query = Query::parse("SELECT sum(data.v), min(data.v) FROM o").unwrap();
    let (_, mut group) = query.single().unwrap();
    let misfits = |group: &mut Group, value: Value| query.take(group, &event(1, json!({ "v": value }))).unwrap();
    assert_eq!(misfits(&mut group, json!(5)), 0);
    assert_eq!(misfits(&mut group, json!("x")), 2);
    assert_eq!(misfits(&mut group, json!(null)), 0);
    assert_eq!(misfits(&mut group, json!([1])), 2);
    assert_eq!(json!(query.row(&group)), json!({ "sum": 5, "min": 5 }));
}

proptest! {
    #[test]
    fn a_pattern_matches_what_the_same_regular_expression_does(text in "[ab%_]{0,8}", pattern in "[ab%_\\\\]{0,6}") {
        fn slow(text: &[char], pattern: &[char]) -> bool {
            match pattern {
                [] => text.is_empty(),
                ['%', rest @ ..] => (0..=text.len()).any(|skipped| slow(&text[skipped..], rest)),
                ['_', rest @ ..] => !text.is_empty() && slow(&text[1..], rest),
                ['\\', exact, rest @ ..] | [exact, rest @ ..] => text.first() == Some(exact) && slow(&text[1..], rest),
            }
        }
        let (texts, patterns): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
        prop_assert_eq!(expr::is_like(&text, &pattern), slow(&texts, &patterns));
    }

    #[test]
    fn whatever_is_said_is_read_or_refused(sql in ".{0,60}", words in proptest::collection::vec(
        prop_oneof![
            Just("SELECT"), Just("count(*)"), Just("FROM"), Just("o"), Just("WHERE"), Just("data.x"), Just("'t'"), Just("1"), Just("("), Just(")"),
            Just("GROUP BY"), Just(","), Just("+"), Just("AND"), Just("CASE"), Just("WHEN"), Just("END"), Just("IN"), Just("IS NULL"), Just("->"),
        ], 0..20)) {
        let _ = Query::parse(&sql);
        let sql = format!("SELECT count(*) FROM o WHERE {}", words.join(" "));
        if let Ok(query) = Query::parse(&sql) {
            let _ = query.group(&event(1, json!({ "x": [1, "a", null] })));
        }
    }
}
