//! Many requests under way at a time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How often the caller is called where nothing arrives.
const LOOK: Duration = Duration::from_millis(100);

/// Works on the items `0..count`, in their order, up to `concurrency` at a time.
///
/// `work` runs on threads of its own; it is given an item and a flag that is set when the run stops. `hear` runs
/// here: it is called with each item's result as it arrives, and with nothing every tenth of a second, so that it can
/// show progress and look for interrupts. After the first error, of either, no further item begins; those under way
/// end, and what they return is still heard.
///
/// # Errors
/// The first error of `work` or `hear`.
pub fn ask_all<T: Send, E: Send>(
    count: usize,
    concurrency: usize,
    work: impl Fn(usize, &AtomicBool) -> Result<T, E> + Sync,
    mut hear: impl FnMut(Option<(usize, T)>) -> Result<(), E>,
) -> Result<(), E> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (sender, receiver) = channel();
    let mut failed = None;
    std::thread::scope(|scope| {
        for _ in 0..concurrency.min(count) {
            let sender = sender.clone();
            let (next, stop, work) = (&next, &stop, &work);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    let result = work(index, stop);
                    let is_error = result.is_err();
                    // The error goes first: whoever stops because of the flag comes after it in the channel.
                    if sender.send((index, result)).is_err() || is_error {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
        drop(sender);
        loop {
            let heard = match receiver.recv_timeout(LOOK) {
                Ok((index, Ok(result))) => hear(Some((index, result))),
                Ok((_, Err(error))) => Err(error),
                Err(RecvTimeoutError::Timeout) => hear(None),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if let Err(error) = heard {
                failed.get_or_insert(error);
                stop.store(true, Ordering::Relaxed);
            }
        }
    });
    failed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_heard_once() {
        let mut heard = vec![0; 50];
        let hear = |result: Option<(usize, usize)>| {
            if let Some((index, square)) = result {
                assert_eq!(square, index * index);
                heard[index] += 1;
            }
            Ok::<(), ()>(())
        };
        ask_all(50, 8, |index, _| Ok(index * index), hear).expect("nothing fails");
        assert_eq!(heard, [1; 50]);
        ask_all(0, 8, |_, _| Ok::<(), ()>(()), |_| Ok(())).expect("nothing to do");
    }

    #[test]
    fn after_an_error_nothing_begins_and_the_first_error_is_returned() {
        let begun = AtomicUsize::new(0);
        let work = |index: usize, stop: &AtomicBool| {
            begun.fetch_add(1, Ordering::Relaxed);
            match index {
                3 => Err("third"),
                _ if stop.load(Ordering::Relaxed) => Err("stopped"),
                _ => Ok(index),
            }
        };
        let mut heard = Vec::new();
        let error = ask_all(1000, 1, work, |result| {
            heard.extend(result);
            Ok(())
        });
        assert_eq!(error, Err("third"));
        assert_eq!(begun.load(Ordering::Relaxed), 4);
        assert_eq!(heard, [(0, 0), (1, 1), (2, 2)]);
    }

    #[test]
    fn the_caller_can_stop_it() {
        let begun = AtomicUsize::new(0);
        let work = |_, stop: &AtomicBool| {
            begun.fetch_add(1, Ordering::Relaxed);
            while !stop.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            Ok(())
        };
        let error = ask_all(1000, 2, work, |_| Err("enough"));
        assert_eq!(error, Err("enough"));
        assert_eq!(begun.load(Ordering::Relaxed), 2);
    }
}
