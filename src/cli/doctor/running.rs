//! The gateway itself, if it runs: what it says of its health.

use super::Finding;
use crate::{admin::client, config::Settings};
use serde_json::Value;

/// What it says, and its status.
pub(super) fn look(settings: &Settings) -> (Vec<Finding>, Option<Value>) {
    let ask = |target| {
        let reply = client::running(settings, "GET", target)?;
        anyhow::Ok(reply.map(|reply| (reply.status, serde_json::from_slice::<Value>(&reply.body).unwrap_or_default())))
    };
    let status = match ask("/api/v1/status") {
        Ok(Some((200, status))) => status,
        Ok(None) => {
            let advice = "start it: `systemctl start tidegate`, or `tidegate run FILE`";
            return (vec![Finding::doubtful("gateway", "no gateway runs with this configuration", advice)], None);
        }
        Ok(Some((code, _))) => {
            let says = format!("the gateway runs and answers with {code}");
            return (vec![Finding::doubtful("gateway", says, "ask as the gateway's user: `sudo -u tidegate`")], None);
        }
        Err(error) => {
            let says = format!("it cannot be asked: {error:#}");
            return (vec![Finding::doubtful("gateway", says, "ask as the gateway's user: `sudo -u tidegate`")], None);
        }
    };
    let mut findings = vec![Finding::right(
        "gateway",
        format!("runs for {} s, took in {} events", status["seconds"], status["taken"]),
    )];
    for (check, target, advice) in [
        (
            "gateway.health",
            "/healthz",
            "`tidegate logs` says more; systemd starts a gateway again that makes no progress",
        ),
        (
            "gateway.intake",
            "/readyz",
            "give its sinks an upstream, or raise `store.disk.high`; `tidegate ledger` shows who has how much to go",
        ),
    ] {
        let why = |answer: &Value| {
            let why = answer["why"].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>();
            why.join(", ")
        };
        findings.extend(match ask(target) {
            Ok(Some((200, _))) => Some(Finding::right(check, "well")),
            Ok(Some((_, answer))) => Some(Finding::wrong(check, why(&answer), advice)),
            Ok(None) | Err(_) => Some(Finding::wrong(check, "it does not answer any more", "`tidegate logs`")),
        });
    }
    let list = |name: &str| status[name].as_array().cloned().unwrap_or_default();
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    findings.extend(list("down").iter().map(|down| {
        let says = format!("down for {} s: {}", down["seconds"], text(down, "reason"));
        Finding::wrong(text(down, "name"), says, "it is tried again by itself; what it is to get waits in the store")
    }));
    findings.extend(list("paused").iter().filter_map(Value::as_str).map(|name| {
        Finding::doubtful(name, "somebody has held it back", format!("`tidegate resume {name}` lets it go on"))
    }));
    (findings, Some(status))
}
