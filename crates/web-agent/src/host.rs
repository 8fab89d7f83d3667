//! What the driver needs of the place where it runs.

use std::{pin::Pin, time::Duration};

use outpost_offload::Failure;
use outpost_proto::inference::{ModelInferRequest, ModelInferResponse};
use outpost_runtime::Threads;
use tonic::{Request, Response};

/// A future on the thread that made it.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// The place where an agent runs.
pub trait Host: 'static {
    /// Time since any origin; never less than before.
    fn now(&self) -> Duration;

    /// Ends after so long.
    fn sleep(&self, time: Duration) -> LocalFuture<()>;

    /// Runs a future to its end, beside what runs now.
    fn spawn(&self, future: LocalFuture<()>);

    /// Those that share the work of an image.
    fn threads(&self) -> Threads {
        Threads::default()
    }

    /// Asks the cloud about an image. Dropped, it is asked no more.
    fn infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> LocalFuture<Result<Response<ModelInferResponse>, Failure>>;

    /// Asks the cloud whether it is there and ready.
    fn ready(&self) -> LocalFuture<Result<(), Failure>>;
}
