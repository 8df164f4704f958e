//! `grpc.health.v1`, which meshes and orchestrators use.

use plaque::{
    origin::Lookup,
    proto::health::{
        HealthCheckRequest, HealthListRequest, health_check_response::ServingStatus,
        health_client::HealthClient,
    },
};
use tonic::Code;

use crate::support::{CHANNEL, Fake, Server, feed, reason};

const SERVICE: &str = "plaque.v1.LatestVideo";

async fn client(server: &Server) -> HealthClient<tonic::transport::Channel> {
    HealthClient::new(server.connection().await)
}

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.into(),
    }
}

#[tokio::test]
async fn health_is_reported_for_the_server_and_the_service() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let mut health = client(&server).await;
    for service in ["", SERVICE] {
        let answer = health.check(of(service)).await.expect("an answer");
        assert_eq!(
            answer.into_inner().status(),
            ServingStatus::Serving,
            "{service:?}"
        );
    }
    let unknown = health.check(of("plaque.v1.LatestVideos")).await;
    assert_eq!(unknown.expect_err("no such service").code(), Code::NotFound);
}

#[tokio::test]
async fn all_services_can_be_listed() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let list = client(&server).await.list(HealthListRequest {}).await;
    let statuses = list.expect("an answer").into_inner().statuses;
    let mut listed: Vec<_> = statuses
        .iter()
        .map(|(name, s)| (name.as_str(), s.status()))
        .collect();
    listed.sort_unstable();
    assert_eq!(
        listed,
        [("", ServingStatus::Serving), (SERVICE, ServingStatus::Serving)]
    );
}

#[tokio::test]
async fn an_outage_of_the_upstream_is_no_reason_to_go_elsewhere() {
    fn broken(_lookup: &Lookup) -> axum::response::Response {
        axum::response::IntoResponse::into_response(axum::http::StatusCode::NOT_FOUND)
    }
    let fake = Fake::open(broken).await;
    let server = fake.serve().await;
    server
        .client()
        .get(CHANNEL)
        .await
        .expect_err("the upstream fails");
    let answer = client(&server).await.check(of(SERVICE)).await;
    assert_eq!(
        answer.expect("an answer").into_inner().status(),
        ServingStatus::Serving
    );
}

#[tokio::test]
async fn a_watch_tells_of_the_drain_and_ends_with_the_server() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let mut known = client(&server)
        .await
        .watch(of(SERVICE))
        .await
        .expect("a stream")
        .into_inner();
    let mut unknown = client(&server)
        .await
        .watch(of("x"))
        .await
        .expect("a stream")
        .into_inner();
    let update = known.message().await.expect("no error").expect("an answer");
    assert_eq!(update.status(), ServingStatus::Serving);
    let update = unknown.message().await.expect("no error").expect("an answer");
    assert_eq!(update.status(), ServingStatus::ServiceUnknown);

    let stopping = server.stop();
    let update = known.message().await.expect("no error").expect("an answer");
    assert_eq!(update.status(), ServingStatus::NotServing);
    for watch in [&mut known, &mut unknown] {
        let end = watch.message().await.expect_err("the server stops");
        assert_eq!(
            (end.code(), reason(&end).0.as_str()),
            (Code::Unavailable, "SHUTTING_DOWN")
        );
    }
    assert_eq!(stopping.ended().await.cut_off, 0);
}
