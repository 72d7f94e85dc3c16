//! `darkbloom admin`: what an operator does with a network's money, and what was done.

use darkbloom_types::NanoDollars;
use serde_json::{Value, json};

use crate::admin::{admin, dollars_of};
use crate::arguments::{DepositStep, Operate, OperateAction, PayoutStep, Side};
use crate::error::{Failure, say};
use crate::verify::DOES_NOT_HOLD;

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// `darkbloom admin`.
pub async fn run(options: Operate) -> Result<(), Failure> {
    let admin = admin(options.admin)?;
    match options.action {
        OperateAction::Audit => {
            let report = admin.get("/admin/v1/audit").await?;
            say(format!(
                "{} books, {} transfers, {} open holds",
                report["books"], report["transfers"], report["open_holds"]
            ))?;
            for finding in rows(&report["findings"]) {
                say(text(finding))?;
            }
            held(report["clean"] == true, "the books do not balance", "stop taking requests and restore a backup")
        }
        OperateAction::Trail { check: true, .. } => {
            let report = admin.get("/admin/v1/trail/check").await?;
            if report["whole"] == true {
                return say(format!("{} rows, whole; the last is {}", report["rows"], text(&report["digest"])));
            }
            let broken = format!("row {} of the trail is not what was written", report["broken_at"]);
            held(false, &broken, "compare the database with a backup")
        }
        OperateAction::Trail { before, .. } => {
            let before = before.map(|seq| format!("?before={seq}")).unwrap_or_default();
            let answer = admin.get(&format!("/admin/v1/trail{before}")).await?;
            for row in rows(&answer["data"]) {
                say(format!(
                    "{:>8}  {}  key {:>5}  {}  {}",
                    row["seq"],
                    row["at"],
                    row["key_id"],
                    text(&row["action"]),
                    text(&row["detail"])
                ))?;
            }
            Ok(())
        }
        OperateAction::Account { name, fee, budget } => {
            let mut body = json!({});
            if let Some(fee) = fee {
                body["fee_basis_points"] =
                    none_or(&fee, |fee| fee.parse::<u16>().ok().map(Value::from)).ok_or_else(|| {
                        Failure::new(format!("`{fee}` is no fee"), "give hundredths of a percent, 0 to 10000, or none")
                    })?;
            }
            if let Some(budget) = budget {
                body["budget"] = budget_of(&budget)?;
            }
            let answer = admin.patch(&format!("/admin/v1/accounts/{}", encoded(&name)), body).await?;
            say(format!("account {} `{name}`{}", answer["account"], budget_words(&answer["budget"])))
        }
        OperateAction::Deposit { account, dollars, reference, source, state } => {
            let state = match state {
                DepositStep::Expected => "expected",
                DepositStep::Credited => "credited",
                DepositStep::Abandoned => "abandoned",
            };
            let body = json!({
                "account": account,
                "amount_nano_usd": dollars_of(&dollars)?,
                "reference": reference,
                "source": source,
                "state": state,
            });
            let answer = admin.post("/admin/v1/deposits", body).await?;
            let already = if answer["already"] == true { " already" } else { "" };
            say(format!("{state}{already}; available {}", money(&answer["available_nano_usd"])))
        }
        OperateAction::Deposits => {
            for row in rows(&admin.get("/admin/v1/deposits").await?["data"]) {
                say(format!(
                    "{:>16}  account {}  {}  {}",
                    money(&row["amount_nano_usd"]),
                    row["account"],
                    text(&row["source"]),
                    text(&row["reference"])
                ))?;
            }
            Ok(())
        }
        OperateAction::Prices => {
            for row in rows(&admin.get("/admin/v1/prices").await?["data"]) {
                let whose = match (&row["account"], &row["provider"]) {
                    (Value::Null, Value::Null) => "everybody".to_owned(),
                    (Value::Null, provider) => format!("provider {}", text(provider)),
                    (account, _) => format!("account {account}"),
                };
                let current = if row["current"] == true { "" } else { "  (no more)" };
                let price = &row["price"];
                say(format!(
                    "{}  edition {}  in {}  out {}  {whose}{current}",
                    text(&row["model"]),
                    price["version"],
                    price["input_nano_per_token"],
                    price["output_nano_per_token"]
                ))?;
            }
            Ok(())
        }
        OperateAction::Price { model, account, provider, input_price, output_price } => {
            let body = price_body(&model, account.as_deref(), provider.as_deref(), input_price.zip(output_price));
            say(price_words(&model, &admin.put("/admin/v1/prices", body).await?["price"]))
        }
        OperateAction::Invite { name, dollars, uses, days } => {
            let expires_at = now_ms().saturating_add(i64::from(days).saturating_mul(DAY_MS));
            let amount = dollars_of(&dollars)?;
            let body = json!({"name": name, "amount_nano_usd": amount, "uses": uses, "expires_at": expires_at});
            say(text(&admin.post("/admin/v1/invites", body).await?["code"]))
        }
        OperateAction::Invites => {
            for row in rows(&admin.get("/admin/v1/invites").await?["data"]) {
                say(format!(
                    "{:>6}  {:>16}  used {}, {} left, until {}  {}",
                    row["id"],
                    money(&row["amount_nano_usd"]),
                    row["used"],
                    row["uses_left"],
                    row["expires_at"],
                    text(&row["name"])
                ))?;
            }
            Ok(())
        }
        OperateAction::EndInvite { id } => {
            admin.delete(&format!("/admin/v1/invites/{id}")).await?;
            say(format!("invite {id} is redeemed by nobody any more"))
        }
        OperateAction::Payouts => {
            for row in rows(&admin.get("/admin/v1/payouts").await?["data"]) {
                say(payout_words(row))?;
            }
            Ok(())
        }
        OperateAction::Payout { id, state, outside } => {
            let state = match state {
                PayoutStep::Sending => "sending",
                PayoutStep::Paid => "paid",
                PayoutStep::Returned => "returned",
            };
            let body = json!({"state": state, "outside": outside});
            say(payout_words(&admin.patch(&format!("/admin/v1/payouts/{id}"), body).await?))
        }
        OperateAction::Disputes => {
            for row in rows(&admin.get("/admin/v1/disputes").await?["data"]) {
                say(format!(
                    "{}  {:>16}  account {}  counted {} in, {} out",
                    text(&row["request"]),
                    money(&row["disputed_nano_usd"]),
                    row["account"],
                    row["input_tokens"],
                    row["output_tokens"]
                ))?;
            }
            Ok(())
        }
        OperateAction::Decide { request, side } => {
            let (side, words) = match side {
                Side::Consumer => ("consumer", "goes back to the consumer"),
                Side::Provider => ("provider", "stays with those who were paid"),
            };
            let path = format!("/admin/v1/disputes/{}", encoded(&request));
            let answer = admin.post(&path, json!({"decision": side})).await?;
            say(format!("{} {words}", money(&answer["disputed_nano_usd"])))
        }
        OperateAction::Owner { provider, account } => {
            let path = format!("/admin/v1/owners/{}", encoded(&provider));
            admin.put(&path, json!({"account": account})).await?;
            say(match account {
                Some(account) => format!("{provider} earns for `{account}`"),
                None => format!("{provider} is nobody's"),
            })
        }
    }
}

fn held(holds: bool, what: &str, hint: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::new(what, hint).with_status(DOES_NOT_HOLD)) }
}

/// Now, in milliseconds since 1970.
fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The rows of a list.
pub fn rows(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// A text of an answer; nothing of it moves a terminal's cursor.
pub fn text(value: &Value) -> String {
    darkbloom_client::printable(value.as_str().unwrap_or("?"))
}

/// An amount of an answer.
pub fn money(value: &Value) -> String {
    NanoDollars(value.as_i64().unwrap_or(0)).to_string()
}

/// A part of a path: everything but unreserved characters is encoded (RFC 3986 section 2.3).
pub fn encoded(part: &str) -> String {
    let mut path = String::with_capacity(part.len());
    for byte in part.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => path.push(char::from(byte)),
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

/// A payout on one line.
pub fn payout_words(row: &Value) -> String {
    format!(
        "{:>6}  {:<9}  {:>16}  account {}  to {}  {}",
        row["id"],
        text(&row["state"]),
        money(&row["amount_nano_usd"]),
        row["account"],
        text(&row["goes_to"]),
        text(&row["reference"])
    )
}

/// What somebody's own price is asked for with.
pub fn price_body(model: &str, account: Option<&str>, provider: Option<&str>, price: Option<(u32, u32)>) -> Value {
    let price = price.map(|(input, output)| json!({"input_nano_per_token": input, "output_nano_per_token": output}));
    json!({"model": model, "account": account, "provider": provider, "price": price})
}

/// What came of it.
pub fn price_words(model: &str, price: &Value) -> String {
    if price.is_null() {
        return format!("`{model}` has everybody's price again");
    }
    format!(
        "`{model}` edition {}: in {}, out {} nano-dollars a token",
        price["version"], price["input_nano_per_token"], price["output_nano_per_token"]
    )
}

/// `none`, or what a text means.
fn none_or(text: &str, read: impl FnOnce(&str) -> Option<Value>) -> Option<Value> {
    if text == "none" { Some(Value::Null) } else { read(text) }
}

/// A budget as somebody says it.
pub fn budget_of(said: &str) -> Result<Value, Failure> {
    let wrong = || Failure::new(format!("`{said}` is no budget"), "give total:20, day:5.00, month:100, or none");
    if said == "none" {
        return Ok(Value::Null);
    }
    let (period, dollars) = said.split_once(':').ok_or_else(wrong)?;
    Ok(json!({"period": period, "limit_nano_usd": dollars_of(dollars).map_err(|_| wrong())?}))
}

fn budget_words(budget: &Value) -> String {
    if budget.is_null() {
        return ", no budget".to_owned();
    }
    let (limit, left) = (money(&budget["limit_nano_usd"]), money(&budget["left_nano_usd"]));
    format!(", {limit} a {}, {left} left", text(&budget["period"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_read_as_they_are_said() {
        assert_eq!(budget_of("day:2.5").unwrap(), json!({"period": "day", "limit_nano_usd": 2_500_000_000_i64}));
        assert_eq!(budget_of("none").unwrap(), Value::Null);
        for wrong in ["", "day", "day:", "day:x", "5"] {
            assert!(budget_of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_part_of_a_path_stays_one_part() {
        assert_eq!(encoded("a/b c?d"), "a%2Fb%20c%3Fd");
    }
}
