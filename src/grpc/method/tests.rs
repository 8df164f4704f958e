use super::*;

#[test]
fn every_method_is_found_by_its_path() {
    for method in Method::all() {
        assert_eq!(Method::of(&format!("/{}", method.name())), method);
    }
    assert_eq!(Method::of("/plaque.v1.LatestVideo/GetLatestVide"), Method::Other);
    assert_eq!(Method::Other.name(), "_OTHER");
}

#[test]
fn every_code_has_its_name() {
    for ended in Ended::all() {
        assert_eq!(
            format!("{:?}", ended.0).to_lowercase(),
            ended.name().replace('_', "").to_lowercase()
        );
    }
}

#[test]
fn how_a_call_ended_is_in_its_status() {
    let mut headers = HeaderMap::new();
    assert_eq!(Ended::from_headers(&headers), None);
    headers.insert(Status::GRPC_STATUS, "5".parse().expect("a value"));
    let ended = Ended::from_headers(&headers).expect("a status");
    assert_eq!((ended.name(), ended.is_server_error()), ("NOT_FOUND", false));
    headers.insert(Status::GRPC_STATUS, "99".parse().expect("a value"));
    let ended = Ended::from_headers(&headers).expect("a status");
    assert_eq!((ended.name(), ended.is_server_error()), ("UNKNOWN", true));
}
