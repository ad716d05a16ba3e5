//! Logs that robots uploaded.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::timestamp::Timestamp;

/// Content type of an upload's piece, as tus 1.0 names it.
pub const PIECE_TYPE: &str = "application/offset+octet-stream";
/// Header of a piece: where it begins. Of an answer: where the next one does.
pub const UPLOAD_OFFSET: &str = "upload-offset";
/// Header of a piece: how long the whole is.
pub const UPLOAD_LENGTH: &str = "upload-length";
/// Header of a piece and of a download (RFC 9530): the SHA-256 of the whole, as `sha-256=:BASE64:`.
pub const REPR_DIGEST: &str = "repr-digest";

/// `GET /api/v1/robots/{id}/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogList {
    /// Newest first.
    pub logs: Vec<LogView>,
}

/// What one command collected: gzip of text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogView {
    /// Which command.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub id: Uuid,
    /// Its size, compressed.
    pub bytes: u64,
    /// SHA-256 of that, in hexadecimal.
    pub sha256: String,
    /// When it was all there.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub uploaded_at: Timestamp,
}
