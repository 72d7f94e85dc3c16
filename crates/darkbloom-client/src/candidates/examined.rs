//! Statements that were verified, so that none is verified twice while it holds: a provider stands in the lists of all of its
//! models and in each that is fetched, and evidence of hardware takes a millisecond.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use darkbloom_attest::{StatementError, TrustPolicy, Verdict, verify_statement};
use darkbloom_types::{Digest, UnixMillis};

use super::lock;

/// Statements that are remembered: the candidates of sixteen models, and their last epochs.
const EXAMINED_MAX: usize = 1_024;

/// A statement's bytes, and the activator that the network had when it was verified: a verdict depends on both. The rest of the
/// policy is the client's own and stays.
type Key = (Digest, Option<[u8; 65]>);

/// Verdicts by what they are about. Those that failed are not kept: a liar pays for his lies again.
#[derive(Debug, Default)]
pub struct Examined(Mutex<HashMap<Key, Arc<Verdict>>>);

impl Examined {
    /// The verdict on a statement, which is verified unless it was. `policy` has the network's activator, if it counts.
    pub fn verify(
        &self,
        statement: &[u8],
        activator: Option<[u8; 65]>,
        policy: &TrustPolicy,
        now: UnixMillis,
    ) -> Result<Arc<Verdict>, StatementError> {
        let key = (Digest::of(&[statement]), activator);
        if let Some(known) = lock(&self.0).get(&key).filter(|verdict| holds(verdict, now)) {
            return Ok(Arc::clone(known));
        }
        let verdict = Arc::new(verify_statement(statement, policy, now)?);
        let mut all = lock(&self.0);
        if all.len() >= EXAMINED_MAX {
            all.retain(|_, verdict| holds(verdict, now));
            if all.len() >= EXAMINED_MAX {
                all.clear();
            }
        }
        all.insert(key, Arc::clone(&verdict));
        Ok(verdict)
    }
}

/// Whether a verdict still holds: a clock that was set back is asked again, as one that has gone on too far.
fn holds(verdict: &Verdict, now: UnixMillis) -> bool {
    let skew = darkbloom_wire::limits::CLOCK_SKEW_MAX;
    now < verdict.holds_until && verdict.statement.not_before <= now.after(skew)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parties::{Operator, Provider, minutes};

    #[test]
    fn a_statement_is_verified_once_while_it_holds() {
        let operator = Operator::new();
        let (signed, policy) = (Provider::new(&operator, "a", minutes(0)).signed(), operator.anybody());
        let examined = Examined::default();
        let verify = |statement: &[u8], activator, now| examined.verify(statement, activator, &policy, now);
        let first = verify(&signed, None, minutes(0)).unwrap();
        let second = verify(&signed, None, minutes(1)).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        let other = verify(&signed, Some([4; 65]), minutes(1)).unwrap();
        assert!(!Arc::ptr_eq(&first, &other), "another activator may say something else");
        assert!(matches!(verify(&signed, None, minutes(60)), Err(StatementError::Expired { .. })));
        assert!(matches!(verify(&signed, None, minutes(-11)), Err(StatementError::Future { .. })));
        let mut changed = signed;
        *changed.last_mut().unwrap() ^= 1;
        for _ in 0..2 {
            assert!(verify(&changed, None, minutes(1)).is_err());
        }
        assert_eq!(lock(&examined.0).len(), 2, "lies are not kept");
    }

    #[test]
    fn no_more_are_kept_than_there_is_room_for() {
        let operator = Operator::new();
        let policy = operator.anybody();
        let examined = Examined::default();
        let signed = Provider::new(&operator, "a", minutes(0)).signed();
        let verdict = examined.verify(&signed, None, &policy, minutes(0)).unwrap();
        for n in 1..EXAMINED_MAX {
            let key = (Digest::of(&[&n.to_be_bytes()]), None);
            lock(&examined.0).insert(key, Arc::clone(&verdict));
        }
        let other = Provider::new(&operator, "b", minutes(0)).signed();
        examined.verify(&other, None, &policy, minutes(0)).unwrap();
        assert!(lock(&examined.0).len() <= EXAMINED_MAX);
    }
}
