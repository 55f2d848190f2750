//! Connections that are slow, repeat themselves and break.
//!
//! A direction carries messages in order, each after a delay. A message may be delivered twice. A connection may break
//! at any message: that one and all behind it are lost, and both sides notice. That is what TCP can do to us; and every
//! message goes through the wire's encoding on its way.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinSet};

/// Longest delay of one message.
const LONGEST_DELAY: Duration = Duration::from_millis(30);

/// The fate of messages. Cheap to clone; all clones draw from one source.
#[derive(Clone, Debug)]
pub struct Fate(Arc<Mutex<Draw>>);

#[derive(Debug)]
struct Draw {
    random: fastrand::Rng,
    calm: bool,
}

/// What happens to one message.
struct Lot {
    delay: Duration,
    twice: bool,
    breaks: bool,
}

impl Fate {
    /// A fate that follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Draw { random: fastrand::Rng::with_seed(seed), calm: false })))
    }

    /// From now on nothing is lost or repeated, only late.
    pub fn calm_down(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).calm = true;
    }

    fn draw(&self) -> Lot {
        let mut draw = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let delay = LONGEST_DELAY.mul_f64(draw.random.f64());
        let calm = draw.calm;
        let twice = draw.random.u32(..100) < 5 && !calm;
        let breaks = draw.random.u32(..100) < 2 && !calm;
        Lot { delay, twice, breaks }
    }
}

/// Carries messages of one direction until one side closes or the connection breaks. `encode` takes a message to the
/// other side's form and back; None stands for what must not be delivered twice.
pub fn carry<T, F>(
    tasks: &mut JoinSet<()>,
    fate: Fate,
    mut from: mpsc::Receiver<T>,
    to: mpsc::Sender<T>,
    recode: F,
) where
    T: Clone + Send + 'static,
    F: Fn(T) -> T + Send + 'static,
{
    tasks.spawn(async move {
        loop {
            let message = tokio::select! {
                biased;
                () = to.closed() => return,
                message = from.recv() => message,
            };
            let Some(message) = message else { return };
            let lot = fate.draw();
            tokio::time::sleep(lot.delay).await;
            if lot.breaks {
                return;
            }
            if lot.twice && to.send(recode(message.clone())).await.is_err() {
                return;
            }
            if to.send(recode(message)).await.is_err() {
                return;
            }
        }
    });
}
