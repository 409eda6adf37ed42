//! `weft doctor`: what is wrong, and what to do about it.

use clap::Args;
use serde_json::Value;

use super::{
    CliError, Session,
    output::{Out, Tone, escape},
    view,
};

/// Check the node and its surroundings
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft doctor
  weft doctor --json | jq 'select(.healthy | not)'

Exit code 1 when a check fails; warnings do not count.")]
pub(crate) struct DoctorArgs {}

/// Shows every check; fails when one does.
pub(crate) async fn execute(session: &Session, _args: &DoctorArgs) -> Result<(), CliError> {
    let diagnosis = session.client()?.get("/v1/doctor").await?;
    let checks = view::list(&diagnosis, "checks");
    if session.out.json {
        session.out.json_line(&diagnosis)?;
    } else {
        show(&session.out, checks)?;
    }
    let failed = checks.iter().any(|check| view::text(check, "status") == "fail");
    let healthy = diagnosis.get("healthy").and_then(Value::as_bool).unwrap_or(!failed);
    if failed || !healthy {
        Err(CliError::Exit(1))
    } else {
        Ok(())
    }
}

fn show(out: &Out, checks: &[Value]) -> Result<(), CliError> {
    let width = checks
        .iter()
        .map(|check| view::text(check, "name").chars().count())
        .max()
        .unwrap_or(0);
    let mut counts = [0_usize; 3];
    for check in checks {
        let (tone, mark) = match view::text(check, "status").as_str() {
            "ok" => (Tone::Good, "ok  "),
            "warn" => (Tone::Warn, "warn"),
            "fail" => (Tone::Bad, "FAIL"),
            _ => (Tone::Dim, "skip"),
        };
        match tone {
            Tone::Good => counts[0] += 1,
            Tone::Warn => counts[1] += 1,
            Tone::Bad => counts[2] += 1,
            _ => {}
        }
        let [name, summary, detail, advice] =
            ["name", "summary", "detail", "advice"].map(|key| escape(&view::text(check, key)).into_owned());
        out.line(&format!("{}  {name:<width$}  {summary}", out.paint(tone, mark)))?;
        let indent = " ".repeat(width + 8);
        if !detail.is_empty() && detail != summary && matches!(tone, Tone::Warn | Tone::Bad) {
            out.line(&format!("{indent}{}", out.paint(Tone::Dim, &detail)))?;
        }
        if !advice.is_empty() && !matches!(tone, Tone::Good) {
            out.line(&format!("{indent}→ {advice}"))?;
        }
    }
    let [good, warned, failed] = counts;
    out.say(&format!("{good} ok, {warned} warnings, {failed} failed"));
    Ok(())
}
