//! gRPC reflection, v1 and v1alpha: tools like grpcurl ask the server itself what it speaks.

use axum::Router;
use tonic_reflection::server::Builder;

/// Every file of the protocols served, as compiled by `build.rs`.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Serves both versions under their paths.
pub(super) fn router() -> Router {
    let builder = || Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
    let sound = "descriptors of our own build are sound";
    Router::new()
        .route_service(
            "/grpc.reflection.v1.ServerReflection/{method}",
            builder().build_v1().expect(sound),
        )
        .route_service(
            "/grpc.reflection.v1alpha.ServerReflection/{method}",
            builder().build_v1alpha().expect(sound),
        )
}
