//! What happens when a service ends: in order, or killed.

use std::time::{Duration, Instant};

use tonic::Code;

use super::fixture::{BOTH, Cloud, LOOPBACK, certificates, client, infer, request};
use crate::CallError;

#[tokio::test]
async fn a_shutdown_answers_the_call_in_flight() {
    for transport in BOTH {
        let mut cloud = Cloud::start().await;
        let channel = cloud.channel(transport);
        let mut held = client(channel.clone());
        let call = tokio::spawn(async move { held.model_infer(request("hold", 100_000)).await });
        cloud.script.begun.acquire().await.unwrap().forget();

        cloud.shut_down();
        // Once new connections are turned away, the shutdown has begun.
        let error = loop {
            if let Err(error) = cloud.channel(transport).connect().await {
                break error;
            }
        };
        assert_ne!(error.cause(), "timeout", "{transport}");
        cloud.script.release.add_permits(1);
        let answer = call.await.unwrap().unwrap().into_inner();
        assert_eq!(answer.raw_output_contents[0].len(), 100_000);
        cloud.ended().await;

        let status = infer(&channel, "echo").await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{transport}: {status}");
    }
}

#[tokio::test]
async fn a_shutdown_waits_no_longer_than_the_drain_timeout() {
    for transport in BOTH {
        let mut cloud = Cloud::start_with(certificates(), LOOPBACK, |config| {
            config.drain_timeout = Duration::from_millis(100);
        })
        .await;
        let mut held = client(cloud.channel(transport));
        let call = tokio::spawn(async move { held.model_infer(request("hold", 0)).await });
        cloud.script.begun.acquire().await.unwrap().forget();
        cloud.shut_down();
        cloud.ended().await;
        let status = call.await.unwrap().unwrap_err();
        assert_eq!(CallError::of(&status).unwrap().cause(), "interrupted");
    }
}

#[tokio::test]
async fn an_idle_shutdown_is_quick() {
    let mut cloud = Cloud::start().await;
    for transport in BOTH {
        let channel = cloud.channel(transport);
        infer(&channel, "echo").await.unwrap();
    }
    let started = Instant::now();
    cloud.shut_down();
    cloud.ended().await;
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_channel_reconnects_after_a_restart_in_order() {
    for transport in BOTH {
        let mut cloud = Cloud::start().await;
        let channel = cloud.channel(transport);
        infer(&channel, "echo").await.unwrap();
        cloud.shut_down();
        cloud.ended().await;
        cloud.kill().await;
        let _restarted = cloud.restart().await;
        infer(&channel, "echo").await.unwrap();
    }
}

#[tokio::test]
async fn a_killed_service_is_noticed_during_the_call() {
    for transport in BOTH {
        let mut cloud = Cloud::start().await;
        let channel = cloud.channel(transport);
        let held_channel = channel.clone();
        let call = tokio::spawn(async move { infer(&held_channel, "hold").await });
        cloud.script.begun.acquire().await.unwrap().forget();
        let started = Instant::now();
        cloud.kill().await;
        let status = call.await.unwrap().unwrap_err();
        assert_eq!(CallError::of(&status).unwrap().cause(), "interrupted");
        // Not by the idle timeout of 15 s.
        assert!(started.elapsed() < Duration::from_secs(5), "{transport}");

        let _restarted = cloud.restart().await;
        infer(&channel, "echo").await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_swept_away_by_a_restart_is_noticed_by_the_next_call() {
    for transport in BOTH {
        let mut cloud = Cloud::start().await;
        let channel = cloud.channel(transport);
        infer(&channel, "echo").await.unwrap();
        cloud.kill().await;
        let _restarted = cloud.restart().await;
        let started = Instant::now();
        // The first call may be lost with the connection that it was sent on.
        let _ = infer(&channel, "echo").await;
        infer(&channel, "echo").await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(5), "{transport}");
    }
}
