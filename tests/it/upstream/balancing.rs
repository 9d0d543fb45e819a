//! Which endpoint gets a request: distribution, health, and clusters across reloads.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use postern::config::model::{Balance, HealthCheck, Upstream};
use postern::upstream::cluster::{Cluster, Clusters};
use postern::upstream::error::{ErrorClass, UpstreamError};
use postern::upstream::pool::{Pool, Pools, SendOptions};
use tokio::sync::Notify;
use tokio::task::spawn_local;

use crate::upstream::support::*;

async fn three() -> ([Server; 3], Vec<SocketAddr>) {
    let servers = [Server::echo().await, Server::echo().await, Server::echo().await];
    let addresses = servers.iter().map(|server| server.address).collect();
    (servers, addresses)
}

async fn answered_by(pool: &Pool<TestBody>, tenant: Option<&str>) -> String {
    let mut request = request(Method::GET, "/");
    if let Some(tenant) = tenant {
        request.headers_mut().insert("x-tenant", tenant.parse().unwrap());
    }
    let reply = pool.send(request, &SendOptions::default()).await.unwrap();
    reply.body().endpoint().authority().to_owned()
}

fn balanced(endpoints: &[SocketAddr], balance: Balance) -> Upstream {
    Upstream { balance, ..settings(endpoints) }
}

#[test]
fn round_robin_is_even_over_all_workers() {
    worker(async {
        let (_servers, addresses) = three().await;
        let cluster = Cluster::new(balanced(&addresses, Balance::RoundRobin)).unwrap();
        let workers = [Pool::new(Arc::clone(&cluster)), Pool::new(cluster)];
        let mut shares: HashMap<String, u32> = HashMap::new();
        for n in 0..30 {
            *shares.entry(answered_by(&workers[n % 2], None).await).or_default() += 1;
        }
        assert_eq!(shares.into_values().collect::<Vec<_>>(), [10; 3]);
    });
}

#[test]
fn a_key_stays_with_its_endpoint() {
    worker(async {
        let (_servers, addresses) = three().await;
        let balance = Balance::Hash("x-tenant".parse().unwrap());
        let (one, two) = (pool(balanced(&addresses, balance.clone())), pool(balanced(&addresses, balance)));
        let mut shares: HashMap<String, u32> = HashMap::new();
        for n in 0..60 {
            let tenant = format!("tenant-{n}");
            let endpoint = answered_by(&one, Some(&tenant)).await;
            assert_eq!(answered_by(&two, Some(&tenant)).await, endpoint, "another gateway agrees");
            *shares.entry(endpoint).or_default() += 1;
        }
        assert!(shares.len() == 3 && shares.values().all(|share| *share > 5), "{shares:?}");
        let mut keyless: HashMap<String, u32> = HashMap::new();
        for _ in 0..9 {
            *keyless.entry(answered_by(&one, None).await).or_default() += 1;
        }
        assert_eq!(keyless.into_values().collect::<Vec<_>>(), [3; 3], "without a key, in turn");
    });
}

#[test]
fn the_less_loaded_of_two_is_chosen() {
    worker(async {
        let go = Rc::new(Notify::new());
        let wait = Rc::clone(&go);
        let busy = Server::start(move |mut peer| {
            let wait = Rc::clone(&wait);
            async move {
                peer.head().await;
                wait.notified().await;
                peer.ok("slow").await;
            }
        })
        .await;
        let quick = Server::echo().await;
        let cluster = Cluster::new(balanced(&[busy.address, quick.address], Balance::PowerOfTwo)).unwrap();
        let (other, mine) = (Pool::<TestBody>::new(Arc::clone(&cluster)), Pool::new(Arc::clone(&cluster)));
        // Another worker's requests come until one hangs at the busy endpoint.
        let mut others = Vec::new();
        while cluster.endpoints()[0].in_flight() == 0 {
            let other = Rc::clone(&other);
            others.push(spawn_local(async move { get(&other, "/").await.map(drop) }));
            tokio::task::yield_now().await;
        }
        eventually("the quick ones are answered", || cluster.endpoints()[1].in_flight() == 0).await;
        for _ in 0..20 {
            assert_eq!(answered_by(&mine, None).await, quick.address.to_string());
        }
        go.notify_one();
        for other in others {
            other.await.unwrap().unwrap();
        }
    });
}

fn checked(endpoints: &[SocketAddr]) -> Upstream {
    let health = HealthCheck {
        path: "/healthz".into(),
        interval: Duration::from_millis(5),
        timeout: Duration::from_secs(5),
        unhealthy_after: 2,
        healthy_after: 2,
    };
    Upstream { health: Some(health), ..settings(endpoints) }
}

/// A server whose health is the test's to say.
async fn moody() -> (Server, Rc<Cell<bool>>) {
    let well = Rc::new(Cell::new(true));
    let says = Rc::clone(&well);
    let server = Server::answering(move |head| {
        let status = if !head.starts_with("GET /healthz ") || says.get() { "200 OK" } else { "500 Sick" };
        format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")
    })
    .await;
    (server, well)
}

#[test]
fn unhealthy_endpoints_get_no_requests_until_they_recover() {
    worker(async {
        let ((one, one_well), (two, two_well)) = (moody().await, moody().await);
        let pool = pool(checked(&[one.address, two.address]));
        let cluster = Arc::clone(pool.cluster());
        let health = spawn_local(cluster.health_task());
        let endpoints = cluster.endpoints();
        one_well.set(false);
        eventually("one is down", || !endpoints[0].is_healthy()).await;
        for _ in 0..6 {
            assert_eq!(answered_by(&pool, None).await, two.address.to_string());
        }
        two_well.set(false);
        eventually("two is down", || !endpoints[1].is_healthy()).await;
        let error = error_of(get(&pool, "/").await);
        assert!(matches!(error, UpstreamError::NoHealthyEndpoint), "{error:?}");
        assert_eq!(error.class(), ErrorClass::Unavailable);
        one_well.set(true);
        eventually("one is up", || endpoints[0].is_healthy()).await;
        assert_eq!(answered_by(&pool, None).await, one.address.to_string());
        health.abort();
    });
}

#[test]
fn an_endpoint_that_is_gone_is_down() {
    worker(async {
        let cluster = Cluster::new(checked(&[dead_address().await])).unwrap();
        let first = spawn_local(cluster.health_task());
        eventually("it is down", || !cluster.endpoints()[0].is_healthy()).await;
        cluster.health_task().await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled(), "a second task ends at once, the first goes on");
        let health = spawn_local(cluster.health_task());
        tokio::task::yield_now().await;
        assert!(!health.is_finished(), "the first is gone");
        drop(cluster);
        health.await.unwrap();
    });
}

#[test]
fn without_a_check_there_is_no_task() {
    worker(async {
        let cluster = Cluster::new(settings(&[dead_address().await])).unwrap();
        cluster.health_task().await;
        assert!(cluster.endpoints()[0].is_healthy());
    });
}

#[test]
fn clusters_survive_a_reload_that_does_not_change_them() {
    worker(async {
        let server = Server::echo().await;
        let one = settings(&[server.address]);
        let upstreams = BTreeMap::from([(Arc::from("a"), one.clone()), (Arc::from("b"), one.clone())]);
        let before = Clusters::build(&upstreams, &Clusters::default()).unwrap();
        let pools = Pools::<TestBody>::new();
        let (a, b) = (pools.get(before.get("a").unwrap()), pools.get(before.get("b").unwrap()));
        assert_eq!(fetch(&a, "/").await.0, 200);

        let mut changed = upstreams;
        changed.get_mut("b").unwrap().response_timeout = Duration::from_secs(1);
        let after = Clusters::build(&changed, &before).unwrap();
        pools.retain(&after);
        assert!(Arc::ptr_eq(before.get("a").unwrap(), after.get("a").unwrap()));
        assert!(Rc::ptr_eq(&a, &pools.get(after.get("a").unwrap())), "with its connections");
        assert!(!Arc::ptr_eq(before.get("b").unwrap(), after.get("b").unwrap()));
        assert!(!Rc::ptr_eq(&b, &pools.get(after.get("b").unwrap())));
    });
}
