//! From a write to its event at every watcher of the key.
//!
//! Latency counts from when the write was sent; one writer, so that an event's write is known.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::spawn_local;
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

pub(super) async fn run(
    plan: &BenchPlan,
    channels: Vec<Transport>,
    watchers: usize,
) -> Result<BenchReport, String> {
    let sent: Rc<RefCell<BTreeMap<Vec<u8>, Instant>>> = Rc::default();
    let meter = Meter::new(Instant::now() + plan.warm_up);
    let heard = Rc::new(Cell::new(0_u64));
    let mut streams = Vec::new();
    for (number, channel) in channels.iter().cycle().take(watchers.div_ceil(PER_STREAM)).enumerate()
    {
        let count = PER_STREAM.min(watchers - number * PER_STREAM);
        let (sent, meter, heard) = (Rc::clone(&sent), meter.clone(), Rc::clone(&heard));
        let ready = watch(channel.clone(), count, sent, meter, heard).await?;
        streams.push(ready);
    }
    let before = ServerUsage::of(&plan.pids)?;
    let start = Instant::now();
    let mut client = KvClient::new(channels[0].clone());
    let mut number = 0_u64;
    let mut intended = start;
    let every = std::time::Duration::from_secs_f64(1.0 / plan.rate.unwrap_or(RATE));
    while intended < start + plan.warm_up + plan.duration {
        tokio::time::sleep_until(intended.into()).await;
        let value = format!("{number:0width$}", width = plan.value_bytes).into_bytes();
        sent.borrow_mut().insert(value.clone(), Instant::now());
        let request = PutRequest { key: key(0), value, ..PutRequest::default() };
        client.put(request).await.map_err(said)?;
        number += 1;
        intended += every;
    }
    let expected = number * watchers as u64;
    let give_up = Instant::now() + REQUEST_TIMEOUT;
    while heard.get() < expected && Instant::now() < give_up {
        tokio::time::sleep(every).await;
    }
    if heard.get() < expected {
        let missing = expected - heard.get();
        meter.ended(Instant::now(), Err(format!("{missing} events never came")));
    }
    let usage = ServerUsage::of(&plan.pids)?.since(&before);
    streams.into_iter().for_each(|stream| stream.abort());
    Ok(BenchReport::new(plan, &meter, start.elapsed(), usage))
}

/// Opens a stream with so many watchers of the key; returns once all are created.
async fn watch(
    channel: Transport,
    count: usize,
    sent: Rc<RefCell<BTreeMap<Vec<u8>, Instant>>>,
    meter: Meter,
    heard: Rc<Cell<u64>>,
) -> Result<tokio::task::JoinHandle<()>, String> {
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
            Some(reply) if reply.created => created += 1,
            Some(_) => {}
            None => return Err("the watch ended".to_owned()),
        }
    }
    Ok(spawn_local(async move {
        // The stream lives as long as its requests.
        let _open = requests;
        while let Ok(Some(reply)) = replies.message().await {
            for event in reply.events {
                let Some(pair) = event.kv else { continue };
                let sent_at = sent.borrow().get(&pair.value).copied();
                if let Some(sent_at) = sent_at {
                    heard.set(heard.get() + 1);
                    meter.ended(sent_at, Ok(()));
                }
            }
        }
    }))
}
