//! Paths that die or change under a connection.

use std::time::{Duration, Instant};

use super::{
    fixture::{Cloud, client, infer, request},
    relay::{TcpRelay, UdpRelay},
};
use crate::{CallError, Channel, ClientConfig, Congestion, Protocol, Transport};

/// Far longer than a call over loopback takes, and far shorter than the timeouts of connections.
const SOON: Duration = Duration::from_secs(4);

fn channel_to(cloud: &Cloud, address: std::net::SocketAddr, transport: Transport) -> Channel {
    Channel::new(ClientConfig {
        url: format!("https://{address}"),
        ..cloud.config(transport)
    })
    .unwrap()
}

/// A call with little time.
async fn infer_within(channel: &Channel, within: Duration) -> Result<(), tonic::Status> {
    let mut request = tonic::Request::new(request("echo", 1000));
    request.set_timeout(within);
    client(channel.clone()).model_infer(request).await?;
    Ok(())
}

/// A connection is dead without a sign of it: calls fail at their deadline until it is renewed.
async fn is_renewed(channel: &Channel, stick: impl FnOnce()) {
    infer(channel, "echo").await.unwrap();
    stick();
    let status = infer_within(channel, Duration::from_millis(300)).await;
    let status = status.unwrap_err();
    let cause = CallError::of(&status).unwrap().cause();
    assert_eq!(cause, "deadline", "{status:?}");
    let started = Instant::now();
    channel.renew().await.unwrap();
    infer_within(channel, SOON).await.unwrap();
    println!("renewed and answered within {:?}", started.elapsed());
}

#[tokio::test]
async fn a_dead_connection_over_http2_is_renewed_at_once() {
    let cloud = Cloud::start().await;
    let relay = TcpRelay::to(cloud.address).await;
    let channel = channel_to(&cloud, relay.address, Transport::H2);
    is_renewed(&channel, || relay.stick()).await;
}

#[tokio::test]
async fn a_dead_connection_over_http3_is_renewed_at_once() {
    let cloud = Cloud::start().await;
    let relay = UdpRelay::to(cloud.address);
    let channel = channel_to(&cloud, relay.address, Transport::H3);
    is_renewed(&channel, || relay.stick()).await;
}

#[tokio::test]
async fn a_retired_connection_takes_no_more_calls() {
    let cloud = Cloud::start().await;
    let relay = TcpRelay::to(cloud.address).await;
    let channel = channel_to(&cloud, relay.address, Transport::H2);
    infer(&channel, "echo").await.unwrap();
    relay.stick();
    channel.retire();
    assert_eq!(channel.protocol(), None);
    infer_within(&channel, SOON).await.unwrap();
}

#[tokio::test]
async fn over_http3_a_call_outlives_another_address_of_the_path() {
    let cloud = Cloud::start().await;
    let relay = UdpRelay::to(cloud.address);
    let channel = Channel::new(ClientConfig {
        url: format!("https://{}", relay.address),
        // Who only waits sends nothing, and is found again by what it sends.
        keep_alive: Duration::from_millis(300),
        ..cloud.config(Transport::H3)
    })
    .unwrap();
    infer(&channel, "echo").await.unwrap();
    let held = {
        let channel = channel.clone();
        tokio::spawn(async move { infer(&channel, "hold").await })
    };
    cloud.script.begun.acquire().await.unwrap().forget();
    relay.move_to(([127, 0, 0, 2], 0).into());
    cloud.script.release.add_permits(1);
    held.await.unwrap().unwrap();
    // And calls to come go on over the same connection.
    let before = channel.http3().unwrap().connection_id();
    infer(&channel, "echo").await.unwrap();
    assert_eq!(channel.http3().unwrap().connection_id(), before);
}

#[tokio::test]
async fn over_http3_no_call_is_lost_when_the_device_changes_its_socket() {
    let cloud = Cloud::start().await;
    let channel = cloud.channel(Transport::H3);
    infer(&channel, "echo").await.unwrap();
    let http3 = channel.http3().unwrap();
    let before = http3.local_port();
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let mut client = client(channel.clone());
            tokio::spawn(async move { client.model_infer(request("echo", 300_000)).await })
        })
        .collect();
    let held = {
        let channel = channel.clone();
        tokio::spawn(async move { infer(&channel, "hold").await })
    };
    cloud.script.begun.acquire().await.unwrap().forget();
    let started = Instant::now();
    http3.rebind().unwrap();
    cloud.script.release.add_permits(1);
    held.await.unwrap().unwrap();
    println!(
        "a call that waited was answered after {:?}",
        started.elapsed()
    );
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_ne!(http3.local_port(), before);
    let id = http3.connection_id();
    infer(&channel, "echo").await.unwrap();
    assert_eq!(channel.http3().unwrap().connection_id(), id);
}

#[tokio::test]
async fn every_congestion_control_answers_over_both_protocols() {
    for congestion in [Congestion::Cubic, Congestion::Bbr, Congestion::NewReno] {
        // Where this kernel's TCP does not have it, a channel and a listener say so.
        let transports: &[Transport] = match congestion.check() {
            Ok(()) => &[Transport::H2, Transport::H3],
            Err(error) => {
                assert!(error.to_string().contains(congestion.as_str()), "{error}");
                &[Transport::H3]
            }
        };
        let certificates = super::fixture::certificates();
        let cloud = Cloud::start_with(certificates, super::fixture::LOOPBACK, |config| {
            config.congestion = (transports.len() > 1).then_some(congestion);
        });
        let cloud = cloud.await;
        for &transport in transports {
            let channel = Channel::new(ClientConfig {
                congestion: Some(congestion),
                ..cloud.config(transport)
            });
            let mut client = client(channel.unwrap());
            let answer = client.model_infer(request("echo", 200_000)).await.unwrap();
            assert_eq!(answer.get_ref().raw_output_contents[0].len(), 200_000);
            let protocol = answer.extensions().get::<Protocol>().unwrap();
            assert_eq!(protocol.as_str(), transport.as_str());
        }
    }
}
