//! Expressions, and what they come to for one event.

use std::borrow::Cow;

use serde_json::Value;
use time::{Date, OffsetDateTime, Time};

use super::value::{Reckoned, TEXT_BYTES_MAX, compare, equal, text, truth};
use crate::{local::rfc3339, patterns::cloud_event::parse_time};

/// What an expression is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    /// The event, as a CloudEvent in JSON; NULL where a finished group is shown.
    pub(super) event: &'a Value,
    /// What its group has in common.
    pub(super) keys: &'a [Value],
    /// What was gathered of the group.
    pub(super) gathered: &'a [Value],
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr {
    Literal(Value),
    /// From the event down.
    Path(Vec<Step>),
    /// The so-many-th of the group's keys.
    Key(usize),
    /// The so-many-th of what is gathered.
    Gathered(usize),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Binary(Binary, Box<Expr>, Box<Expr>),
    IsNull(Box<Expr>),
    In(Box<Expr>, Vec<Expr>),
    Like {
        expr: Box<Expr>,
        pattern: Box<Expr>,
        any_case: bool,
    },
    Case(Vec<(Expr, Expr)>, Option<Box<Expr>>),
    Call(Function, Vec<Expr>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Member(String),
    Index(i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    And,
    Or,
    Equal,
    Less,
    LessOrEqual,
    /// As `Equal`, but NULL is a value like any other.
    Same,
    Plus,
    Minus,
    Times,
    Divided,
    Modulo,
    Concat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Abs,
    Ceil,
    Coalesce,
    DateTrunc,
    Floor,
    Length,
    Lower,
    NullIf,
    Round,
    Substr,
    ToBoolean,
    ToNumber,
    ToText,
    ToWhole,
    Trim,
    Upper,
}

impl Function {
    /// The function of this name, and how many arguments it takes.
    pub(super) fn named(name: &str) -> Option<(Self, std::ops::RangeInclusive<usize>)> {
        Some(match name {
            "abs" => (Function::Abs, 1..=1),
            "ceil" | "ceiling" => (Function::Ceil, 1..=1),
            "coalesce" => (Function::Coalesce, 1..=16),
            "date_trunc" => (Function::DateTrunc, 2..=2),
            "floor" => (Function::Floor, 1..=1),
            "length" => (Function::Length, 1..=1),
            "lower" => (Function::Lower, 1..=1),
            "nullif" => (Function::NullIf, 2..=2),
            "round" => (Function::Round, 1..=2),
            "substr" | "substring" => (Function::Substr, 2..=3),
            "trim" => (Function::Trim, 1..=1),
            "upper" => (Function::Upper, 1..=1),
            _ => return None,
        })
    }
}

const NULL: Value = Value::Null;

impl Expr {
    /// What it comes to.
    pub(super) fn value<'a>(&'a self, scope: Scope<'a>) -> Cow<'a, Value> {
        match self {
            Expr::Literal(value) => Cow::Borrowed(value),
            Expr::Path(steps) => Cow::Borrowed(follow(scope.event, steps)),
            Expr::Key(number) => Cow::Borrowed(scope.keys.get(*number).unwrap_or(&NULL)),
            Expr::Gathered(number) => Cow::Borrowed(scope.gathered.get(*number).unwrap_or(&NULL)),
            Expr::Not(expr) => owned(truth(&expr.value(scope)).map(|truth| !truth)),
            Expr::Negative(expr) => {
                let number = Reckoned::of(&expr.value(scope));
                let negative = number.map(|number| Reckoned::Whole(0).with(number, i64::checked_sub, |a, b| a - b));
                owned(negative.map(Reckoned::value))
            }
            Expr::Binary(operator, left, right) => binary(*operator, left, right, scope),
            Expr::IsNull(expr) => owned(Some(expr.value(scope).is_null())),
            Expr::In(expr, list) => owned(among(&expr.value(scope), list, scope)),
            Expr::Like {
                expr,
                pattern,
                any_case,
            } => match (&*expr.value(scope), &*pattern.value(scope)) {
                (Value::String(text), Value::String(pattern)) if *any_case => {
                    owned(Some(is_like(&text.to_lowercase(), &pattern.to_lowercase())))
                }
                (Value::String(text), Value::String(pattern)) => owned(Some(is_like(text, pattern))),
                _ => Cow::Owned(NULL),
            },
            Expr::Case(cases, otherwise) => {
                let case = cases.iter().find(|(when, _)| when.holds(scope)).map(|(_, then)| then);
                let then = case.or(otherwise.as_deref());
                then.map_or(Cow::Owned(NULL), |then| then.value(scope))
            }
            Expr::Call(function, arguments) => call(*function, arguments, scope),
        }
    }

    /// Whether it is true: neither false nor unknown.
    pub(super) fn holds(&self, scope: Scope<'_>) -> bool {
        truth(&self.value(scope)) == Some(true)
    }
}

fn owned<'a>(value: Option<impl Into<Value>>) -> Cow<'a, Value> {
    Cow::Owned(value.map_or(NULL, Into::into))
}

fn follow<'a>(event: &'a Value, steps: &[Step]) -> &'a Value {
    let mut at = event;
    for step in steps {
        let next = match step {
            Step::Member(name) => at.get(name.as_str()),
            Step::Index(index) => {
                let list = at.as_array();
                list.and_then(|list| {
                    let index = if *index < 0 {
                        list.len().checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?
                    } else {
                        usize::try_from(*index).ok()?
                    };
                    list.get(index)
                })
            }
        };
        match next {
            Some(next) => at = next,
            None => return &NULL,
        }
    }
    at
}

fn binary<'a>(operator: Binary, left: &'a Expr, right: &'a Expr, scope: Scope<'a>) -> Cow<'a, Value> {
    let (a, b) = match operator {
        Binary::And | Binary::Or => return owned(logical(operator, left, right, scope)),
        _ => (left.value(scope), right.value(scope)),
    };
    let reckon = |whole: fn(i64, i64) -> Option<i64>, real: fn(f64, f64) -> f64| {
        let numbers = Reckoned::of(&a).zip(Reckoned::of(&b));
        owned(numbers.map(|(a, b)| a.with(b, whole, real).value()))
    };
    match operator {
        Binary::Equal => owned(equal(&a, &b)),
        Binary::Less => owned(compare(&a, &b).map(std::cmp::Ordering::is_lt)),
        Binary::LessOrEqual => owned(compare(&a, &b).map(std::cmp::Ordering::is_le)),
        Binary::Same => owned(Some(equal(&a, &b).unwrap_or_else(|| a.is_null() && b.is_null()))),
        Binary::Plus => reckon(i64::checked_add, |a, b| a + b),
        Binary::Minus => reckon(i64::checked_sub, |a, b| a - b),
        Binary::Times => reckon(i64::checked_mul, |a, b| a * b),
        // JSON has one sort of numbers: 3 / 2 is 1.5, and 4 / 2 is 2.
        Binary::Divided => reckon(
            |a, b| (a.checked_rem(b)? == 0).then(|| a.checked_div(b)).flatten(),
            |a, b| a / b,
        ),
        Binary::Modulo => reckon(i64::checked_rem, |a, b| a % b),
        Binary::Concat | Binary::And | Binary::Or => owned(text(&a).zip(text(&b)).and_then(|(a, b)| {
            let both = a + &b;
            (both.len() <= TEXT_BYTES_MAX).then_some(both)
        })),
    }
}

/// Three values of truth (ISO/IEC 9075-2, §6.39): what is known of one side may be enough.
fn logical(operator: Binary, left: &Expr, right: &Expr, scope: Scope<'_>) -> Option<bool> {
    let decides = operator == Binary::Or;
    let a = truth(&left.value(scope));
    if a == Some(decides) {
        return a;
    }
    let b = truth(&right.value(scope));
    if b == Some(decides) {
        return b;
    }
    a.and(b)
}

fn among(value: &Value, list: &[Expr], scope: Scope<'_>) -> Option<bool> {
    let mut is_unknown = value.is_null();
    for one in list {
        match equal(value, &one.value(scope)) {
            Some(true) => return Some(true),
            Some(false) => {}
            None => is_unknown = true,
        }
    }
    (!is_unknown).then_some(false)
}

/// `%` is any text, `_` any character, behind `\` is what is meant as it stands. Never slower than the product of the lengths.
pub(super) fn is_like(text: &str, pattern: &str) -> bool {
    #[derive(Clone, Copy, PartialEq)]
    enum Part {
        Any,
        One,
        Exact(char),
    }
    let mut parts = Vec::new();
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        parts.push(match char {
            '%' => Part::Any,
            '_' => Part::One,
            '\\' => Part::Exact(chars.next().unwrap_or('\\')),
            other => Part::Exact(other),
        });
    }
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut part) = (0, 0);
    // Where to go on with one more character for the last `%`.
    let mut again: Option<(usize, usize)> = None;
    while at < text.len() {
        match parts.get(part) {
            Some(Part::Any) => {
                again = Some((at, part + 1));
                part += 1;
            }
            Some(Part::One) => (at, part) = (at + 1, part + 1),
            Some(Part::Exact(char)) if *char == text[at] => (at, part) = (at + 1, part + 1),
            _ => match again {
                Some((from, behind)) => {
                    again = Some((from + 1, behind));
                    (at, part) = (from + 1, behind);
                }
                None => return false,
            },
        }
    }
    parts[part..].iter().all(|part| *part == Part::Any)
}

fn call<'a>(function: Function, arguments: &'a [Expr], scope: Scope<'a>) -> Cow<'a, Value> {
    let argument = |number: usize| arguments.get(number).map_or(Cow::Owned(NULL), |one| one.value(scope));
    let first = match function {
        Function::Coalesce => {
            let known = arguments
                .iter()
                .map(|one| one.value(scope))
                .find(|value| !value.is_null());
            return known.unwrap_or(Cow::Owned(NULL));
        }
        _ => argument(0),
    };
    let on_text = |change: fn(&str) -> String| owned(first.as_str().map(change));
    let on_number = |change: fn(f64) -> f64| match Reckoned::of(&first) {
        Some(Reckoned::Real(real)) => owned(Some(whole_if_it_is(change(real)))),
        _ => owned(Reckoned::of(&first).map(Reckoned::value)),
    };
    match function {
        Function::Abs => owned(Reckoned::of(&first).map(|number| {
            match number {
                Reckoned::Whole(whole) => whole
                    .checked_abs()
                    .map_or(Reckoned::Real(-(whole as f64)), Reckoned::Whole)
                    .value(),
                Reckoned::Real(real) => Reckoned::Real(real.abs()).value(),
            }
        })),
        Function::Ceil => on_number(f64::ceil),
        Function::Floor => on_number(f64::floor),
        Function::Round => round(&first, arguments.get(1).map(|digits| digits.value(scope)).as_deref()),
        Function::Lower => on_text(str::to_lowercase),
        Function::Upper => on_text(str::to_uppercase),
        Function::Trim => on_text(|text| text.trim().to_owned()),
        Function::Length => owned(match &*first {
            Value::String(text) => Some(text.chars().count()),
            Value::Array(list) => Some(list.len()),
            _ => None,
        }),
        Function::NullIf if equal(&first, &argument(1)) == Some(true) => Cow::Owned(NULL),
        Function::NullIf | Function::Coalesce => first,
        Function::Substr => {
            let length = arguments.get(2).map(|length| length.value(scope));
            owned(substring(&first, &argument(1), length.as_deref()))
        }
        Function::DateTrunc => owned(truncated(&first, &argument(1))),
        Function::ToText => owned(text(&first)),
        Function::ToNumber => owned(to_number(&first).map(Reckoned::value)),
        Function::ToWhole => owned(to_number(&first).map(|number| match number {
            Reckoned::Real(real) => whole_if_it_is(real.trunc()),
            whole => whole.value(),
        })),
        Function::ToBoolean => owned(match &*first {
            Value::String(text) => text.parse::<bool>().ok(),
            other => truth(other),
        }),
    }
}

fn whole_if_it_is(real: f64) -> Value {
    super::value::plain(Reckoned::Real(real).value())
}

fn round(value: &Value, digits: Option<&Value>) -> Cow<'static, Value> {
    let digits = match digits.map(Value::as_i64) {
        None => 0,
        Some(Some(digits @ 0..=15)) => digits as i32,
        Some(_) => return Cow::Owned(NULL),
    };
    owned(Reckoned::of(value).map(|number| match number {
        Reckoned::Whole(whole) => whole.into(),
        Reckoned::Real(real) => {
            let scale = 10_f64.powi(digits);
            let scaled = real * scale;
            // With so large a number there is nothing behind the point.
            whole_if_it_is(if scaled.is_finite() {
                scaled.round() / scale
            } else {
                real
            })
        }
    }))
}

fn to_number(value: &Value) -> Option<Reckoned> {
    match value {
        Value::String(text) => {
            let text = text.trim();
            let whole = text.parse::<i64>().ok().map(Reckoned::Whole);
            let real = || {
                text.parse::<f64>()
                    .ok()
                    .filter(|real| real.is_finite())
                    .map(Reckoned::Real)
            };
            whole.or_else(real)
        }
        Value::Bool(truth) => Some(Reckoned::Whole((*truth).into())),
        other => Reckoned::of(other),
    }
}

/// From the so-many-th character on, counted from 1.
fn substring(value: &Value, from: &Value, length: Option<&Value>) -> Option<String> {
    let (text, from) = (value.as_str()?, from.as_i64()?);
    let end = match length {
        None => i64::MAX,
        Some(length) => from.saturating_add(length.as_i64().filter(|length| *length >= 0)?),
    };
    let begin = from.max(1);
    let chars = usize::try_from(end.saturating_sub(begin)).unwrap_or(0);
    Some(
        text.chars()
            .skip(usize::try_from(begin - 1).ok()?)
            .take(chars)
            .collect(),
    )
}

/// The begin of the minute, hour, day, week (Monday), month, quarter or year in UTC.
fn truncated(unit: &Value, time: &Value) -> Option<String> {
    let unix_ms = parse_time(time.as_str()?)?;
    let at = OffsetDateTime::from_unix_timestamp(i64::try_from(unix_ms / 1000).ok()?).ok()?;
    let (date, hour, minute) = (at.date(), at.hour(), at.minute());
    let first_of = |month: u8| Date::from_calendar_date(date.year(), time::Month::try_from(month).ok()?, 1).ok();
    let (date, hour, minute) = match unit.as_str()?.to_lowercase().as_str() {
        "minute" => (date, hour, minute),
        "hour" => (date, hour, 0),
        "day" => (date, 0, 0),
        "week" => {
            let days = i64::from(date.weekday().number_days_from_monday());
            (date.checked_sub(time::Duration::days(days))?, 0, 0)
        }
        "month" => (first_of(date.month().into())?, 0, 0),
        "quarter" => (first_of((u8::from(date.month()) - 1) / 3 * 3 + 1)?, 0, 0),
        "year" => (first_of(1)?, 0, 0),
        _ => return None,
    };
    let begin = date.with_time(Time::from_hms(hour, minute, 0).ok()?).assume_utc();
    Some(rfc3339(u64::try_from(begin.unix_timestamp()).ok()?.checked_mul(1000)?))
}
