//! From SQL to what is done with each event.

use serde_json::Value;
use sqlparser::{
    ast::{
        self, AccessExpr, BinaryOperator, CastKind, CeilFloorKind, Expr as Sql, FunctionArg, FunctionArgExpr,
        FunctionArguments, GroupByExpr, Ident, InTarget, ObjectName, Select, SelectItem, SetExpr, Statement, Subscript,
        TableFactor, UnaryOperator,
    },
    dialect::PostgreSqlDialect,
    parser::Parser,
};

use super::{
    COLUMNS_MAX, KEYS_MAX, Query, SQL_BYTES_MAX,
    expr::{Binary, Expr, Function, Step},
    gather::{Gather, Kind},
    value::plain,
};

/// Expressions within expressions.
const DEPTH_MAX: usize = 64;
const SHAPE: &str = "a projection is SELECT … FROM STREAM [WHERE …] [GROUP BY …] [HAVING …]";

type Parsed<T> = Result<T, String>;

/// Reads the statement of a projection.
pub(super) fn statement(sql: &str) -> Parsed<Query> {
    if sql.len() > SQL_BYTES_MAX {
        return Err(format!(
            "the statement has {} bytes, and {SQL_BYTES_MAX} are the limit",
            sql.len()
        ));
    }
    let statements =
        Parser::parse_sql(&PostgreSqlDialect {}, sql).map_err(|error| format!("this is no SQL: {error}"))?;
    let [Statement::Query(query)] = statements.as_slice() else {
        return Err(format!("it is not one SELECT: {SHAPE}"));
    };
    let SetExpr::Select(select) = &*query.body else {
        return Err(format!("it is not one SELECT: {SHAPE}"));
    };
    check_shape(query, select)?;
    let stream = stream_of(select)?;
    let aliases = aliases(select);
    let mut reading = Reading {
        sql_keys: keys_of(select, &aliases)?,
        gathers: Vec::new(),
    };
    let keys = reading.sql_keys.iter().map(of_event).collect::<Parsed<Vec<_>>>()?;
    let filter = select.selection.as_ref().map(of_event).transpose()?;
    let mut columns: Vec<(String, Expr)> = Vec::new();
    for (name, sql) in named_columns(select)? {
        if columns.iter().any(|(other, _)| *other == name) {
            return Err(format!("two columns are called {name}: give one another name with AS"));
        }
        columns.push((name, reading.of_group(sql, 0)?));
    }
    let having = select
        .having
        .as_ref()
        .map(|having| reading.of_group(having, 0))
        .transpose()?;
    if keys.is_empty() && reading.gathers.is_empty() {
        return Err("nothing is gathered: use count, sum, avg, min, max, first or last, or GROUP BY".to_owned());
    }
    Ok(Query {
        stream,
        filter,
        keys,
        gathers: reading.gathers,
        columns,
        having,
    })
}

/// What is understood, put together again, must be what was said: so nothing is passed over.
fn check_shape(query: &ast::Query, select: &Select) -> Parsed<()> {
    for (is_there, what) in [
        (
            query.order_by.is_some(),
            "ORDER BY: rows come in the order of their groups",
        ),
        (query.limit_clause.is_some() || query.fetch.is_some(), "LIMIT"),
        (query.with.is_some(), "WITH"),
        (select.distinct.is_some(), "DISTINCT: GROUP BY does the same"),
        (
            select.from.len() > 1 || select.from.iter().any(|from| !from.joins.is_empty()),
            "more than one stream",
        ),
    ] {
        if is_there {
            return Err(format!("a projection has no {what}"));
        }
    }
    let list = |items: &[String]| items.join(", ");
    let columns: Vec<String> = select.projection.iter().map(ToString::to_string).collect();
    let from: Vec<String> = select.from.iter().map(ToString::to_string).collect();
    let mut again = format!("SELECT {}", list(&columns));
    if !from.is_empty() {
        again.push_str(&format!(" FROM {}", list(&from)));
    }
    if let Some(selection) = &select.selection {
        again.push_str(&format!(" WHERE {selection}"));
    }
    if let GroupByExpr::Expressions(keys, _) = &select.group_by
        && !keys.is_empty()
    {
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        again.push_str(&format!(" GROUP BY {}", list(&keys)));
    }
    if let Some(having) = &select.having {
        again.push_str(&format!(" HAVING {having}"));
    }
    match query.to_string() == again {
        true => Ok(()),
        false => Err(format!("there is more in it than is understood: {SHAPE}")),
    }
}

fn stream_of(select: &Select) -> Parsed<String> {
    let [from] = select.from.as_slice() else {
        return Err(format!("it does not say FROM which stream: {SHAPE}"));
    };
    let TableFactor::Table { name, .. } = &from.relation else {
        return Err(format!("{} is no stream", from.relation));
    };
    let text = object_name(name)?;
    match from.relation.to_string() == name.to_string() {
        true => Ok(text),
        false => Err(format!(
            "FROM takes the name of a stream and nothing else, not {}",
            from.relation
        )),
    }
}

fn object_name(name: &ObjectName) -> Parsed<String> {
    let parts = name.0.iter().map(|part| {
        let ident = part.as_ident().ok_or_else(|| format!("{name} is no name"))?;
        Ok(ident.value.clone())
    });
    Ok(parts.collect::<Parsed<Vec<_>>>()?.join("."))
}

/// Columns with a name of their own.
fn aliases(select: &Select) -> Vec<(&str, &Sql)> {
    fn named(item: &SelectItem) -> Option<(&str, &Sql)> {
        match item {
            SelectItem::ExprWithAlias { expr, alias } => Some((alias.value.as_str(), expr)),
            _ => None,
        }
    }
    select.projection.iter().filter_map(named).collect()
}

/// `GROUP BY` by expression, by the name of a column or by its number.
fn keys_of(select: &Select, aliases: &[(&str, &Sql)]) -> Parsed<Vec<Sql>> {
    let GroupByExpr::Expressions(keys, modifiers) = &select.group_by else {
        return Err("GROUP BY ALL is not understood: say by what".to_owned());
    };
    if !modifiers.is_empty() || keys.len() > KEYS_MAX {
        return Err(format!("GROUP BY takes up to {KEYS_MAX} expressions and nothing else"));
    }
    let key = |key: &Sql| match key {
        Sql::Identifier(name) => {
            let column = aliases.iter().find(|(alias, _)| *alias == name.value);
            Ok(column.map_or(key, |(_, sql)| sql).clone())
        }
        Sql::Value(number) => {
            let number = number
                .to_string()
                .parse::<usize>()
                .ok()
                .and_then(|number| number.checked_sub(1));
            match number.and_then(|number| select.projection.get(number)) {
                Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) => Ok(expr.clone()),
                _ => Err(format!("GROUP BY {key}: there is no such column")),
            }
        }
        other => Ok(other.clone()),
    };
    keys.iter().map(key).collect()
}

fn named_columns(select: &Select) -> Parsed<Vec<(String, &Sql)>> {
    if select.projection.len() > COLUMNS_MAX {
        return Err(format!("a projection has at most {COLUMNS_MAX} columns"));
    }
    let columns = select.projection.iter().enumerate().map(|(number, item)| match item {
        SelectItem::ExprWithAlias { expr, alias } => Ok((alias.value.clone(), expr)),
        SelectItem::UnnamedExpr(expr) => {
            let name = own_name(expr).unwrap_or_else(|| format!("column{}", number + 1));
            Ok((name, expr))
        }
        other => Err(format!("{other} is no column of a projection: say which ones")),
    });
    columns.collect()
}

fn own_name(sql: &Sql) -> Option<String> {
    match sql {
        Sql::Identifier(name) => Some(name.value.clone()),
        Sql::Function(function) => object_name(&function.name).ok().map(|name| name.to_lowercase()),
        other => path(other)?.into_iter().rev().find_map(|step| match step {
            Step::Member(name) => Some(name),
            Step::Index(_) => None,
        }),
    }
}

/// An expression over one event.
fn of_event(sql: &Sql) -> Parsed<Expr> {
    let nothing = |sql: &Sql, _: usize| match sql {
        Sql::Function(function) if kind_of(function).is_some() => {
            Err(format!("{} cannot be here: it needs a whole group", function.name))
        }
        _ => Ok(None),
    };
    translate(sql, 0, &mut { nothing })
}

/// What is said of groups.
struct Reading {
    sql_keys: Vec<Sql>,
    gathers: Vec<Gather>,
}

impl Reading {
    /// An expression over a group: what it has in common, and what is gathered of it.
    fn of_group(&mut self, sql: &Sql, depth: usize) -> Parsed<Expr> {
        let mut known = |sql: &Sql, _: usize| {
            if let Some(number) = self.sql_keys.iter().position(|key| key == sql) {
                return Ok(Some(Expr::Key(number)));
            }
            match sql {
                Sql::Function(function) => match kind_of(function) {
                    Some(kind) => self.gather(kind, function).map(Some),
                    None => Ok(None),
                },
                other if path(other).is_some() => Err(format!(
                    "{other} is not the same for all events of a group: name it in GROUP BY, or take last({other}), say"
                )),
                _ => Ok(None),
            }
        };
        translate(sql, depth, &mut known)
    }

    fn gather(&mut self, kind: Kind, function: &ast::Function) -> Parsed<Expr> {
        let name = &function.name;
        let of = match arguments(function)?.as_slice() {
            [FunctionArgExpr::Wildcard] if kind == Kind::Count => None,
            [FunctionArgExpr::Expr(sql)] => Some(of_event(sql)?),
            _ => return Err(format!("{name} takes one expression")),
        };
        let filter = function.filter.as_deref().map(of_event).transpose()?;
        let gather = Gather { kind, of, filter };
        let number = match self.gathers.iter().position(|other| *other == gather) {
            Some(number) => number,
            None => {
                self.gathers.push(gather);
                self.gathers.len() - 1
            }
        };
        match self.gathers.len() > COLUMNS_MAX {
            true => Err(format!("a projection gathers at most {COLUMNS_MAX} things")),
            false => Ok(Expr::Gathered(number)),
        }
    }
}

fn kind_of(function: &ast::Function) -> Option<Kind> {
    Kind::named(&object_name(&function.name).ok()?.to_lowercase())
}

/// The arguments, if there is nothing about the call besides them and `FILTER`.
fn arguments(function: &ast::Function) -> Parsed<Vec<&FunctionArgExpr>> {
    let FunctionArguments::List(list) = &function.args else {
        return Err(format!("{} takes arguments", function.name));
    };
    let texts: Vec<String> = list.args.iter().map(ToString::to_string).collect();
    let mut plain = format!("{}({})", function.name, texts.join(", "));
    if let Some(filter) = &function.filter {
        plain.push_str(&format!(" FILTER (WHERE {filter})"));
    }
    if plain != function.to_string() {
        return Err(format!("{function} says more than is understood"));
    }
    fn argument(argument: &FunctionArg) -> Parsed<&FunctionArgExpr> {
        match argument {
            FunctionArg::Unnamed(expr) => Ok(expr),
            other => Err(format!("{other} is not understood")),
        }
    }
    list.args.iter().map(argument).collect()
}

/// Turns SQL into an expression; `known` is asked first about each part of it.
fn translate(sql: &Sql, depth: usize, known: &mut dyn FnMut(&Sql, usize) -> Parsed<Option<Expr>>) -> Parsed<Expr> {
    if depth > DEPTH_MAX {
        return Err(format!("expressions are nested deeper than {DEPTH_MAX}"));
    }
    if let Some(expr) = known(sql, depth)? {
        return Ok(expr);
    }
    if let Some(steps) = path(sql) {
        let path = Expr::Path(steps);
        return Ok(match sql {
            Sql::BinaryOp {
                op: BinaryOperator::LongArrow,
                ..
            } => Expr::Call(Function::ToText, vec![path]),
            _ => path,
        });
    }
    let mut inner = |sql: &Sql| Ok::<_, String>(Box::new(translate(sql, depth + 1, known)?));
    Ok(match sql {
        Sql::Nested(nested) => *inner(nested)?,
        Sql::Value(value) => Expr::Literal(literal(&value.value)?),
        Sql::UnaryOp { op, expr } => match op {
            UnaryOperator::Not => not(*inner(expr)?, true),
            UnaryOperator::Minus => Expr::Negative(inner(expr)?),
            UnaryOperator::Plus => *inner(expr)?,
            _ => return Err(format!("{op} is not understood")),
        },
        Sql::BinaryOp { left, op, right } => operation(op, inner(left)?, inner(right)?)?,
        Sql::Case {
            operand,
            conditions,
            else_result,
            ..
        } => case(operand.as_deref(), conditions, else_result.as_deref(), &mut inner)?,
        Sql::Function(function) => call(function, &mut inner)?,
        other => match test(other, &mut inner)? {
            Some(test) => test,
            None => spelt_call(other, &mut inner)?,
        },
    })
}

/// Translates what stands within something.
type Inner<'a> = dyn FnMut(&Sql) -> Parsed<Box<Expr>> + 'a;

fn not(expr: Expr, negated: bool) -> Expr {
    if negated { Expr::Not(Box::new(expr)) } else { expr }
}

/// Something that is true, false or unknown, if it is that.
fn test(sql: &Sql, inner: &mut Inner<'_>) -> Parsed<Option<Expr>> {
    Ok(Some(match sql {
        Sql::IsNull(expr) => Expr::IsNull(inner(expr)?),
        Sql::IsNotNull(expr) => not(Expr::IsNull(inner(expr)?), true),
        Sql::IsTrue(expr) => is_truth(*inner(expr)?, true),
        Sql::IsNotTrue(expr) => not(is_truth(*inner(expr)?, true), true),
        Sql::IsFalse(expr) => is_truth(*inner(expr)?, false),
        Sql::IsNotFalse(expr) => not(is_truth(*inner(expr)?, false), true),
        Sql::IsDistinctFrom(a, b) => not(Expr::Binary(Binary::Same, inner(a)?, inner(b)?), true),
        Sql::IsNotDistinctFrom(a, b) => Expr::Binary(Binary::Same, inner(a)?, inner(b)?),
        Sql::Between {
            expr,
            negated,
            low,
            high,
        } => {
            let within = Expr::Binary(
                Binary::And,
                Box::new(Expr::Binary(Binary::LessOrEqual, inner(low)?, inner(expr)?)),
                Box::new(Expr::Binary(Binary::LessOrEqual, inner(expr)?, inner(high)?)),
            );
            not(within, *negated)
        }
        Sql::In {
            expr,
            target: InTarget::List(list),
            negated,
            global: false,
        } => {
            let expr = inner(expr)?;
            let list = list
                .iter()
                .map(|one| inner(one).map(|one| *one))
                .collect::<Parsed<_>>()?;
            not(Expr::In(expr, list), *negated)
        }
        Sql::Like {
            negated,
            any: false,
            expr,
            pattern,
            escape_char: None,
        } => not(like(inner(expr)?, inner(pattern)?, false), *negated),
        Sql::ILike {
            negated,
            any: false,
            expr,
            pattern,
            escape_char: None,
        } => not(like(inner(expr)?, inner(pattern)?, true), *negated),
        _ => return Ok(None),
    }))
}

fn case(
    operand: Option<&Sql>,
    conditions: &[ast::CaseWhen],
    otherwise: Option<&Sql>,
    inner: &mut Inner<'_>,
) -> Parsed<Expr> {
    let mut cases = Vec::new();
    for case in conditions {
        let mut when = *inner(&case.condition)?;
        if let Some(operand) = operand {
            when = Expr::Binary(Binary::Equal, inner(operand)?, Box::new(when));
        }
        cases.push((when, *inner(&case.result)?));
    }
    Ok(Expr::Case(cases, otherwise.map(inner).transpose()?))
}

fn call(function: &ast::Function, inner: &mut Inner<'_>) -> Parsed<Expr> {
    let name = object_name(&function.name)?.to_lowercase();
    let (known, count) = Function::named(&name).ok_or_else(|| format!("there is no function {name}: {FUNCTIONS}"))?;
    let mut all = Vec::new();
    for argument in arguments(function)? {
        let FunctionArgExpr::Expr(sql) = argument else {
            return Err(format!("{function} is not understood"));
        };
        all.push(*inner(sql)?);
    }
    match count.contains(&all.len()) && function.filter.is_none() {
        true => Ok(Expr::Call(known, all)),
        false => Err(format!("{function}: so {name} cannot be called")),
    }
}

/// Functions that have a grammar of their own.
fn spelt_call(sql: &Sql, inner: &mut Inner<'_>) -> Parsed<Expr> {
    Ok(match sql {
        Sql::Cast {
            kind: CastKind::Cast | CastKind::TryCast | CastKind::SafeCast | CastKind::DoubleColon,
            expr,
            data_type,
            format: None,
        } => Expr::Call(cast(&data_type.to_string())?, vec![*inner(expr)?]),
        Sql::Ceil {
            expr,
            field: CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime),
        } => Expr::Call(Function::Ceil, vec![*inner(expr)?]),
        Sql::Floor {
            expr,
            field: CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime),
        } => Expr::Call(Function::Floor, vec![*inner(expr)?]),
        Sql::Trim {
            trim_where: None,
            trim_what: None,
            expr,
            trim_characters: None,
        } => Expr::Call(Function::Trim, vec![*inner(expr)?]),
        Sql::Substring {
            expr,
            substring_from: Some(from),
            substring_for,
            ..
        } => {
            let mut all = vec![*inner(expr)?, *inner(from)?];
            if let Some(length) = substring_for {
                all.push(*inner(length)?);
            }
            Expr::Call(Function::Substr, all)
        }
        other => return Err(format!("{other} is not understood")),
    })
}

const FUNCTIONS: &str = "there are count, sum, avg, min, max, first, last of a group, and abs, ceil, coalesce, date_trunc, floor, length, lower, nullif, \
                         round, substr, trim, upper, CAST and CASE";

fn is_truth(expr: Expr, truth: bool) -> Expr {
    Expr::Binary(
        Binary::Same,
        Box::new(Expr::Call(Function::ToBoolean, vec![expr])),
        Box::new(Expr::Literal(truth.into())),
    )
}

fn like(expr: Box<Expr>, pattern: Box<Expr>, any_case: bool) -> Expr {
    Expr::Like {
        expr,
        pattern,
        any_case,
    }
}

fn operation(op: &BinaryOperator, left: Box<Expr>, right: Box<Expr>) -> Parsed<Expr> {
    let operator = match op {
        BinaryOperator::And => Binary::And,
        BinaryOperator::Or => Binary::Or,
        BinaryOperator::Eq => Binary::Equal,
        BinaryOperator::NotEq => return Ok(Expr::Not(Box::new(Expr::Binary(Binary::Equal, left, right)))),
        BinaryOperator::Lt => Binary::Less,
        BinaryOperator::LtEq => Binary::LessOrEqual,
        BinaryOperator::Gt => return Ok(Expr::Binary(Binary::Less, right, left)),
        BinaryOperator::GtEq => return Ok(Expr::Binary(Binary::LessOrEqual, right, left)),
        BinaryOperator::Plus => Binary::Plus,
        BinaryOperator::Minus => Binary::Minus,
        BinaryOperator::Multiply => Binary::Times,
        BinaryOperator::Divide => Binary::Divided,
        BinaryOperator::Modulo => Binary::Modulo,
        BinaryOperator::StringConcat => Binary::Concat,
        _ => return Err(format!("{op} is not understood")),
    };
    Ok(Expr::Binary(operator, left, right))
}

fn cast(data_type: &str) -> Parsed<Function> {
    let word = data_type.split(['(', ' ']).next().unwrap_or_default();
    Ok(match word.to_uppercase().as_str() {
        "TEXT" | "VARCHAR" | "CHAR" | "CHARACTER" | "STRING" => Function::ToText,
        "INT" | "INTEGER" | "BIGINT" | "SMALLINT" | "INT4" | "INT8" => Function::ToWhole,
        "DOUBLE" | "FLOAT" | "FLOAT8" | "REAL" | "NUMERIC" | "DECIMAL" => Function::ToNumber,
        "BOOL" | "BOOLEAN" => Function::ToBoolean,
        _ => {
            return Err(format!(
                "there is no cast to {data_type}: to text, integer, double and boolean there is"
            ));
        }
    })
}

fn literal(value: &ast::Value) -> Parsed<Value> {
    Ok(match value {
        ast::Value::Null => Value::Null,
        ast::Value::Boolean(truth) => (*truth).into(),
        ast::Value::SingleQuotedString(text) | ast::Value::EscapedStringLiteral(text) => text.clone().into(),
        ast::Value::Number(text, _) => {
            let whole = text.parse::<i64>().ok().map(Value::from);
            let real = || {
                text.parse::<f64>()
                    .ok()
                    .and_then(serde_json::Number::from_f64)
                    .map(Value::Number)
            };
            plain(
                whole
                    .or_else(real)
                    .ok_or_else(|| format!("{text} is no number that can be reckoned with"))?,
            )
        }
        other => return Err(format!("{other} is not understood: texts stand between single quotes")),
    })
}

/// A place in an event: `data.items[0].price`, `data['a b']`, `data->'items'->0`.
fn path(sql: &Sql) -> Option<Vec<Step>> {
    let member = |ident: &Ident| Step::Member(ident.value.clone());
    match sql {
        Sql::Identifier(name) => Some(vec![member(name)]),
        Sql::CompoundIdentifier(names) => Some(names.iter().map(member).collect()),
        Sql::CompoundFieldAccess { root, access_chain } => {
            let mut steps = path(root)?;
            for access in access_chain {
                match access {
                    AccessExpr::Dot(sql) => steps.extend(path(sql)?),
                    AccessExpr::Subscript(Subscript::Index { index }) => steps.push(step(index)?),
                    AccessExpr::Subscript(_) => return None,
                }
            }
            Some(steps)
        }
        Sql::BinaryOp {
            left,
            op: BinaryOperator::Arrow | BinaryOperator::LongArrow,
            right,
        } => {
            let mut steps = path(left)?;
            steps.push(step(right)?);
            Some(steps)
        }
        _ => None,
    }
}

fn step(sql: &Sql) -> Option<Step> {
    match sql {
        Sql::Value(value) => match &value.value {
            ast::Value::SingleQuotedString(name) => Some(Step::Member(name.clone())),
            ast::Value::Number(number, _) => number.parse().ok().map(Step::Index),
            _ => None,
        },
        Sql::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => match step(expr)? {
            Step::Index(index) => Some(Step::Index(index.checked_neg()?)),
            Step::Member(_) => None,
        },
        _ => None,
    }
}
