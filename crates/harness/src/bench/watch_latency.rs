//! From a write to its event at every watcher of the key.
//!
//! Latency counts from when the write was to be sent; one writer, so that an event's write is
//! known.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};
use tokio_stream::wrappers::ReceiverStream;

use crate::client_access::Transport;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::watch_client::WatchClient;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{PutRequest, WatchCreateRequest, WatchRequest};

use super::operations::{key, said};
use super::{BenchPlan, BenchReport, Meter, REQUEST_TIMEOUT, ServerUsage};

/// Writes a second if nothing else is said: watchers are measured, not writes.
const RATE: f64 = 100.0;

/// Watchers that share a stream, as those of one client do.
const PER_STREAM: usize = 100;

/// How long watchers may take to be created.
const CREATION_TIMEOUT: Duration = Duration::from_secs(60);

/// Digits of the number with which every value begins.
const DIGITS: usize = 20;

/// Writes whose events are still to come.
struct Outstanding {
    watchers: usize,
    /// Number of the first one held.
    first: u64,
    /// When each was to be sent, and how many watchers have not heard of it.
    writes: VecDeque<(Instant, usize)>,
    last_heard: Instant,
}

impl Outstanding {
    /// A watcher heard of write `number`; when that was to be sent.
    fn heard(&mut self, number: u64) -> Option<Instant> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let (sent, left) = self.writes.get_mut(index)?;
        let sent = *sent;
        *left = left.saturating_sub(1);
        while self.writes.front().is_some_and(|(_, left)| *left == 0) {
            self.writes.pop_front();
            self.first += 1;
        }
        self.last_heard = Instant::now();
        Some(sent)
    }

    fn sent(&mut self, intended: Instant) {
        self.writes.push_back((intended, self.watchers));
    }

    fn missing(&self) -> usize {
        self.writes.iter().map(|(_, left)| left).sum()
    }
}

pub(super) async fn run(
    plan: &BenchPlan,
    channels: Vec<Transport>,
    watchers: usize,
) -> Result<BenchReport, String> {
    let outstanding = Rc::new(RefCell::new(Outstanding {
        watchers,
        first: 0,
        writes: VecDeque::new(),
        last_heard: Instant::now(),
    }));
    let meter = Meter::new(Instant::now());
    let mut streams = Vec::new();
    let counts = (0..watchers).step_by(PER_STREAM).map(|first| PER_STREAM.min(watchers - first));
    for (channel, count) in channels.iter().cycle().zip(counts) {
        let stream = watch(channel.clone(), count, Rc::clone(&outstanding), meter.clone());
        let stream = tokio::time::timeout(CREATION_TIMEOUT, stream).await;
        streams.push(stream.map_err(|_| "the watchers are not created in time".to_owned())??);
    }
    let start = Instant::now();
    let measured_from = start + plan.warm_up;
    meter.since.set(measured_from);
    let mut client = KvClient::new(channels[0].clone());
    let every = Duration::from_secs_f64(1.0 / plan.rate.unwrap_or(RATE));
    let (mut number, mut intended, mut before) = (0_u64, start, None);
    while intended < measured_from + plan.duration {
        tokio::time::sleep_until(intended.into()).await;
        if intended >= measured_from && before.is_none() {
            before = Some(ServerUsage::of(&plan.pids)?);
        }
        outstanding.borrow_mut().sent(intended);
        let value =
            format!("{number:0DIGITS$}{:v<1$}", "", plan.value_bytes.saturating_sub(DIGITS));
        let request = PutRequest { key: key(0), value: value.into(), ..PutRequest::default() };
        client.put(request).await.map_err(said)?;
        number += 1;
        intended += every;
    }
    let give_up = Instant::now() + REQUEST_TIMEOUT;
    while outstanding.borrow().missing() > 0 && Instant::now() < give_up {
        tokio::time::sleep(every).await;
    }
    let usage = ServerUsage::of(&plan.pids)?.since(&before.unwrap_or_default());
    streams.into_iter().for_each(|stream| stream.abort());
    let outstanding = outstanding.borrow();
    let missing = outstanding.missing();
    if missing > 0 {
        meter.ended(Instant::now(), Err(format!("{missing} events never came")));
    }
    let measured = outstanding.last_heard.saturating_duration_since(measured_from);
    Ok(BenchReport::new(plan, &meter, measured, usage))
}

/// Opens a stream with so many watchers of the key; returns once all are created.
async fn watch(
    channel: Transport,
    count: usize,
    outstanding: Rc<RefCell<Outstanding>>,
    meter: Meter,
) -> Result<JoinHandle<()>, String> {
    let (requests, stream) = mpsc::channel(PER_STREAM);
    for _ in 0..count {
        let create = WatchCreateRequest { key: key(0), ..WatchCreateRequest::default() };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.try_send(request).map_err(|error| error.to_string())?;
    }
    let mut client = WatchClient::new(channel);
    let replies = client.watch(ReceiverStream::new(stream)).await.map_err(said)?;
    let mut replies = replies.into_inner();
    let mut created = 0;
    while created < count {
        match replies.message().await.map_err(said)? {
            Some(reply) if reply.canceled => {
                return Err(format!("a watch was refused: {}", reply.cancel_reason));
            }
            Some(reply) => created += usize::from(reply.created),
            None => return Err("the watch ended".to_owned()),
        }
    }
    Ok(spawn_local(async move {
        // The stream lives as long as its requests.
        let _open = requests;
        while let Ok(Some(reply)) = replies.message().await {
            for event in reply.events {
                let value = event.kv.map(|pair| pair.value).unwrap_or_default();
                let number = value.get(..DIGITS).and_then(|digits| str::from_utf8(digits).ok());
                let Some(Ok(number)) = number.map(str::parse::<u64>) else { continue };
                let sent = outstanding.borrow_mut().heard(number);
                if let Some(sent) = sent {
                    meter.ended(sent, Ok(()));
                }
            }
        }
    }))
}
