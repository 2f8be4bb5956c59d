//! First contact: of several endpoints of a cluster, the first whose member answers.
//!
//! Whatever talks to a cluster by endpoints that a person typed begins here, so that a wrong guess
//! about TLS or the user is said in the same plain words by all of them.

use std::time::Duration;

use crate::client_access::{ClientAccess, ConnectError};
use crate::member_client::MemberClient;
use crate::proto::etcdserverpb::Member;

/// A member that answers, and whom it takes for members.
///
/// # Errors
/// One sentence about all of the endpoints; worth another try if it is for one of them.
pub(crate) async fn first_contact(
    access: &ClientAccess,
    endpoints: &[String],
    timeout: Duration,
) -> Result<(MemberClient, Vec<Member>), ConnectError> {
    let mut errors = Vec::new();
    for endpoint in endpoints {
        match contact(access, endpoint, timeout).await {
            Ok(found) => return Ok(found),
            // Ours or theirs; either way nothing comes back.
            Err(ConnectError::Unreachable(_)) if access.lacks_tls(endpoint).await => {
                let sentence = format!("{endpoint} speaks TLS: say --cacert, whom to believe");
                errors.push(ConnectError::Refused(sentence));
            }
            Err(error) => errors.push(error),
        }
    }
    Err(of_all(errors))
}

async fn contact(
    access: &ClientAccess,
    endpoint: &str,
    timeout: Duration,
) -> Result<(MemberClient, Vec<Member>), ConnectError> {
    let client = MemberClient::over(access.channel(endpoint, timeout).await?);
    let members = client.members().await.map_err(|error| match error.into() {
        ConnectError::Refused(why) => ConnectError::Refused(format!("{endpoint}: {why}")),
        ConnectError::Unreachable(why) => ConnectError::Unreachable(format!("{endpoint}: {why}")),
    })?;
    Ok((client, members))
}

fn of_all(errors: Vec<ConnectError>) -> ConnectError {
    let hopeless = errors.iter().all(|error| matches!(error, ConnectError::Refused(_)));
    let sentences: Vec<String> = errors.into_iter().map(String::from).collect();
    let sentence = format!("no member could be asked: {}", sentences.join("; "));
    if hopeless { ConnectError::Refused(sentence) } else { ConnectError::Unreachable(sentence) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_endpoint_is_tried_and_named() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", free.local_addr().expect("bound"));
        drop(free);
        let ask = async |endpoints: &[&str]| {
            let endpoints: Vec<String> = endpoints.iter().map(|one| (*one).to_owned()).collect();
            let timeout = Duration::from_secs(1);
            first_contact(&ClientAccess::default(), &endpoints, timeout).await.expect_err("nobody")
        };
        let ConnectError::Refused(why) = ask(&["https://a:1"]).await else {
            panic!("nothing helps but another option");
        };
        assert!(why.contains("https://a:1 needs --cacert"), "{why}");
        let ConnectError::Unreachable(why) = ask(&["https://a:1", &url]).await else {
            panic!("the second may start any moment");
        };
        assert!(why.contains("https://a:1 needs") && why.contains("refused"), "{why}");
    }
}
