//! Questions of those who are no members yet, both sides. See `wire::peer::Answer`.

use super::handshake::{HandshakeError, Talk, failed, in_time};
use super::{CONNECT_TIMEOUT, Network, secure_call};
use crate::tls::{CertificateRotation, SecureStream};
use bytes::BytesMut;
use tokio::net::TcpStream;
use wire::peer::{Answer, Frame, PREAMBLE, Question, Refusal, RefusalReason};

/// No answer is longer.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Asks whoever listens at `address` who the members are.
pub(crate) async fn ask(
    tls: Option<&CertificateRotation>,
    address: &str,
    question: &Question,
) -> Result<Answer, String> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = connecting.map_err(|error| error.to_string())?.map_err(|e| e.to_string())?;
    let stream = match tls {
        None => SecureStream::Plain(stream),
        Some(tls) => secure_call::secure(tls, address, stream).await.map_err(|e| e.to_string())?,
    };
    let mut talk = Talk::new(stream, ANSWER_BYTES_MAX);
    let exchange = async {
        let mut words = BytesMut::from(&PREAMBLE[..]);
        question.encode(&mut words);
        talk.say(words).await?;
        talk.hear_preamble().await?;
        let frame = talk.hear().await?;
        Answer::decode(frame).map_err(failed)?.map_err(HandshakeError::Refused)
    };
    in_time(exchange).await.map_err(|error| error.to_string())
}

/// Answers a caller whose first frame was a question; the preamble was heard.
pub(super) async fn answer(
    network: &Network,
    frame: Frame,
    talk: &mut Talk,
) -> Result<(), HandshakeError> {
    let mut words = BytesMut::from(&PREAMBLE[..]);
    let answer = match Question::decode(frame).map_err(failed)? {
        Ok(question) => members(network, &question).await,
        Err(refusal) => Err(refusal),
    };
    match answer {
        Ok(answer) => answer.encode(&mut words),
        Err(refusal) => refusal.encode(&mut words),
    }
    talk.say(words).await
}

async fn members(network: &Network, question: &Question) -> Result<Answer, Refusal> {
    // Whoever was removed and added again must not take itself for who it was before.
    if let Err(text) = network.directory.settle().await {
        return Err(Refusal { reason: RefusalReason::NotAMember, text });
    }
    let level = network.directory.feature_level();
    if question.feature_level < level {
        let text = format!(
            "the caller speaks feature level {}, the cluster already uses {level}: start a newer \
             version",
            question.feature_level
        );
        return Err(Refusal { reason: RefusalReason::FeatureLevel, text });
    }
    Ok(Answer {
        cluster_id: network.local.cluster,
        cluster_feature_level: level,
        members: network.directory.members(),
    })
}
