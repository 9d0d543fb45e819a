//! A waker between a connection and the task that drives it, which keeps quiet while that task is driving.
//!
//! hyper wakes a connection's task whenever its caller takes something from it. When caller and task are one, each such
//! wake would only make the task run again for nothing.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Nothing has happened since the task last looked, and it is still looking.
const QUIET: u8 = 0;
/// Something has happened while the task was looking, or did not care.
const AGAIN: u8 = 1;
/// The task has looked, and waits.
const LISTENING: u8 = 2;

/// How often a task looks again by itself before it lets others run.
const ROUNDS_MAX: usize = 4;

#[derive(Debug)]
struct State {
    mode: AtomicU8,
    task: Mutex<Waker>,
}

impl Wake for State {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.mode.swap(AGAIN, Ordering::AcqRel) == LISTENING {
            self.task.lock().unwrap_or_else(PoisonError::into_inner).wake_by_ref();
        }
    }
}

/// The relay of one connection.
#[derive(Debug)]
pub(crate) struct Relay {
    state: Arc<State>,
    waker: Waker,
}

impl Relay {
    /// A relay that no task listens to.
    pub(crate) fn new() -> Self {
        let task = Mutex::new(Waker::noop().clone());
        let state = Arc::new(State { mode: AtomicU8::new(QUIET), task });
        Self { waker: Waker::from(Arc::clone(&state)), state }
    }

    /// Polls on behalf of the task of `cx`, again for as long as the polling itself causes wakes. After
    /// [`Poll::Pending`] the task is woken by the next one; after [`Poll::Ready`] it is not.
    pub(crate) fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        for _ in 0..ROUNDS_MAX {
            self.state.mode.swap(QUIET, Ordering::AcqRel);
            if let Poll::Ready(value) = poll(&mut Context::from_waker(&self.waker)) {
                return Poll::Ready(value);
            }
            self.listen_as(cx.waker());
            let listening =
                self.state.mode.compare_exchange(QUIET, LISTENING, Ordering::AcqRel, Ordering::Acquire);
            if listening.is_ok() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn listen_as(&self, waker: &Waker) {
        let mut task = self.state.task.lock().unwrap_or_else(PoisonError::into_inner);
        task.clone_from(waker);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Count {
        fn get(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn only_a_waiting_task_is_woken() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        let relay = Relay::new();
        let mut inner = Waker::noop().clone();
        let pending = relay.poll(&mut cx, |cx| {
            inner.clone_from(cx.waker());
            Poll::<()>::Pending
        });
        assert!(pending.is_pending());
        inner.wake_by_ref();
        inner.wake_by_ref();
        assert_eq!(count.get(), 1, "once, until it looks again");
        assert!(relay.poll(&mut cx, |_| Poll::Ready(())).is_ready());
        inner.wake_by_ref();
        assert_eq!(count.get(), 1, "nobody waits");
    }

    #[test]
    fn a_wake_of_its_own_makes_it_look_again() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        let relay = Relay::new();
        let mut looks = 0;
        let polled = relay.poll(&mut cx, |cx| {
            looks += 1;
            cx.waker().wake_by_ref();
            if looks == 2 { Poll::Ready(()) } else { Poll::Pending }
        });
        assert_eq!((polled, count.get()), (Poll::Ready(()), 0));
        let endless = relay.poll(&mut cx, |cx| {
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        assert!(endless.is_pending());
        assert_eq!(count.get(), 1, "it lets others run, and comes back");
    }

    #[test]
    fn the_last_task_is_the_one_woken() {
        let counts = [Arc::new(Count::default()), Arc::new(Count::default())];
        let relay = Relay::new();
        let mut inner = Waker::noop().clone();
        for count in &counts {
            let waker = Waker::from(Arc::clone(count));
            let pending = relay.poll(&mut Context::from_waker(&waker), |cx| {
                inner.clone_from(cx.waker());
                Poll::<()>::Pending
            });
            assert!(pending.is_pending());
        }
        inner.wake();
        assert_eq!([counts[0].get(), counts[1].get()], [0, 1]);
    }
}
