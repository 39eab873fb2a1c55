//! Several addresses of one name: a name of a machine that has moved, or a family of addresses that
//! leads nowhere here, must not hide the address that is good. As in RFC 8305 ("Happy Eyeballs"),
//! each further one is tried when those before have failed or are slow.

use std::time::Duration;

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::sleep;

use super::ConnectError;

/// Why an attempt failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: ConnectError,
    /// Whether it is somebody at that address who says so.
    pub(super) is_answer: bool,
}

/// The first success; further attempts begin after `delay`. The error is the one that tells most, if
/// there was an attempt at all; where somebody has answered, it does not wait longer than `grace` for
/// those who say nothing.
pub(super) async fn race<T>(
    attempts: impl IntoIterator<Item = impl Future<Output = Result<T, Failed>>>,
    delay: Duration,
    grace: Duration,
) -> Result<T, Option<ConnectError>> {
    let mut waiting = attempts.into_iter().peekable();
    let mut running = FuturesUnordered::new();
    let mut failure: Option<Failed> = None;
    loop {
        match waiting.next() {
            Some(attempt) => running.push(attempt),
            None if running.is_empty() => return Err(failure.map(|failed| failed.error)),
            None => {}
        }
        let has_more = waiting.peek().is_some();
        let is_answered = failure.as_ref().is_some_and(|failed| failed.is_answer);
        tokio::select! {
            Some(outcome) = running.next() => match outcome {
                Ok(success) => return Ok(success),
                Err(failed) => {
                    if !is_answered || failed.is_answer {
                        failure = Some(failed);
                    }
                }
            },
            () = sleep(delay), if has_more => {}
            () = sleep(grace), if !has_more && is_answered => {
                return Err(failure.map(|failed| failed.error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::future::{BoxFuture, FutureExt as _, ready};

    use super::*;

    type Attempt = BoxFuture<'static, Result<u32, Failed>>;

    const DELAY: Duration = Duration::from_millis(5);
    const GRACE: Duration = Duration::from_millis(50);

    fn unreachable() -> Failed {
        let address = "host:1".to_owned();
        let text = "nobody".to_owned();
        Failed {
            error: ConnectError::Unreachable { address, text },
            is_answer: false,
        }
    }

    fn refused() -> Failed {
        let address = "host:1".to_owned();
        let text = "full".to_owned();
        Failed {
            error: ConnectError::Refused { address, text },
            is_answer: true,
        }
    }

    fn silent() -> Attempt {
        pending().boxed()
    }

    fn fails(failed: Failed) -> Attempt {
        ready(Err(failed)).boxed()
    }

    fn works() -> Attempt {
        ready(Ok(7)).boxed()
    }

    #[tokio::test]
    async fn neither_silent_addresses_nor_those_that_fail_hide_one_that_works() {
        for attempts in [
            vec![silent(), silent(), works()],
            vec![fails(unreachable()), silent(), works()],
            vec![silent(), fails(refused()), fails(unreachable()), works()],
        ] {
            assert_eq!(race(attempts, DELAY, GRACE).await.unwrap(), 7);
        }
    }

    #[tokio::test]
    async fn an_address_that_takes_longer_than_the_delay_is_waited_for_where_another_says_no() {
        let slow = async {
            sleep(DELAY * 4).await;
            Ok(7)
        };
        let attempts = vec![fails(refused()), slow.boxed()];
        assert_eq!(race(attempts, DELAY, GRACE).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn what_a_broker_says_counts_more_than_that_others_say_nothing() {
        for attempts in [
            vec![fails(refused()), fails(unreachable())],
            vec![fails(unreachable()), fails(refused())],
            vec![silent(), fails(refused())],
            vec![fails(refused()), silent()],
        ] {
            let error = race(attempts, DELAY, GRACE).await.unwrap_err();
            assert!(matches!(error, Some(ConnectError::Refused { .. })));
        }
        let none = race(Vec::<Attempt>::new(), DELAY, GRACE).await;
        assert!(none.unwrap_err().is_none());
    }
}
