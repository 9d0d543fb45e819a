//! The request's body on its way out, and how far it is.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::upstream::body::RequestBody;

/// Whom a request body waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The client: it has not sent more yet. Its own timeouts apply, the upstream is not to blame.
    Client,
    /// The upstream, which takes what is there.
    Upstream,
    /// Nobody: all of it has been handed over.
    Sent,
    /// Nobody: the body itself has failed.
    Failed,
}

/// How far a request body is.
#[derive(Debug)]
pub(crate) struct Upload {
    stage: Cell<Stage>,
    moved: Cell<Instant>,
}

impl Upload {
    /// Whom it waits for.
    pub(crate) fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// When it last moved.
    pub(crate) fn moved(&self) -> Instant {
        self.moved.get()
    }

    fn enter(&self, stage: Stage) {
        self.stage.set(stage);
        if stage != Stage::Client {
            self.moved.set(Instant::now());
        }
    }
}

/// Marks an upload as sent when hyper lets the body go, which it does as soon as it has all of it.
#[derive(Debug)]
struct Handle(Rc<Upload>);

impl Drop for Handle {
    fn drop(&mut self) {
        if matches!(self.0.stage(), Stage::Client | Stage::Upstream) {
            self.0.enter(Stage::Sent);
        }
    }
}

/// A request body that tells how far it is. An empty one has nothing to tell, and costs nothing.
#[derive(Debug)]
pub(crate) struct Outgoing<B> {
    body: B,
    upload: Option<Handle>,
}

impl<B: RequestBody> Outgoing<B> {
    /// Wraps `body`.
    pub(crate) fn new(body: B) -> Self {
        let upload = (!body.is_end_stream()).then(|| {
            let moved = Cell::new(Instant::now());
            Handle(Rc::new(Upload { stage: Cell::new(Stage::Upstream), moved }))
        });
        Self { body, upload }
    }

    /// How far it is, to be looked at while it is being sent; `None` when it is empty.
    pub(crate) fn upload(&self) -> Option<Rc<Upload>> {
        self.upload.as_ref().map(|handle| Rc::clone(&handle.0))
    }

    /// The body, if it comes back unsent.
    pub(crate) fn into_inner(self) -> B {
        self.body
    }
}

impl<B: RequestBody> Body for Outgoing<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(Handle(upload)) = &self.upload {
            upload.enter(match &polled {
                Poll::Pending => Stage::Client,
                Poll::Ready(Some(Ok(_))) => Stage::Upstream,
                Poll::Ready(Some(Err(_))) => Stage::Failed,
                Poll::Ready(None) => Stage::Sent,
            });
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
