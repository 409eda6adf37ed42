//! Every bound of the protocol in one place. What exceeds one is refused with [`crate::DecodeError::TooLarge`].

/// Deepest nesting of a CBOR value; the deepest message of the protocol nests eight times.
pub const NESTING_MAX: usize = 16;

/// A `Hello`, the first frame of every stream.
pub const HELLO_BYTES_MAX: usize = 4096;
/// A `HelloReply`.
pub const HELLO_REPLY_BYTES_MAX: usize = 1024;
/// Capability tokens in one `Hello` or publication.
pub const CAPABILITIES_MAX: usize = 4;
/// A W3C `tracestate` value, as the standard asks to carry at least.
pub const TRACESTATE_BYTES_MAX: usize = 512;
/// A pattern's identifier, as in `/weft/<pattern>/<version>`.
pub const PATTERN_ID_BYTES_MAX: usize = 64;
/// Patterns that say something with a probe.
pub const NOTES_MAX: usize = 16;
/// What one of them says.
pub const NOTE_BYTES_MAX: usize = 256;

/// The payload of one certificate.
pub const CERTIFICATE_BYTES_MAX: usize = 4096;
/// Certificates between the root and a member.
pub const CHAIN_LEN_MAX: usize = 8;
/// A whole chain, so that it always fits into a node record and a revocation notice.
pub const CHAIN_BYTES_MAX: usize = 16 * 1024;
/// The payload of one link of a capability.
pub const CAPABILITY_BYTES_MAX: usize = 2048;
/// Links of one capability token.
pub const CAPABILITY_LINKS_MAX: usize = 8;
/// A whole capability token, so that one always fits into a `Hello`.
pub const CAPABILITY_TOKEN_BYTES_MAX: usize = 3072;
/// An invitation ticket, before its text form.
pub const TICKET_BYTES_MAX: usize = 2048;
/// The payload of one revocation.
pub const REVOCATION_BYTES_MAX: usize = 512;
/// The reason of a revocation or a refusal.
pub const REASON_BYTES_MAX: usize = 256;
/// A revocation with the chain of its signer.
pub const REVOCATION_NOTICE_BYTES_MAX: usize = CHAIN_BYTES_MAX + 1024;
/// Revocations kept; how the ones to keep are chosen is in [`crate::revocation`].
pub const REVOCATIONS_MAX: usize = 10_000;

/// A name, role, label key or label value.
pub const NAME_BYTES_MAX: usize = 64;
/// Roles of a member.
pub const ROLES_MAX: usize = 16;
/// Labels of a member.
pub const LABELS_MAX: usize = 32;
/// Grants of a certificate or capability.
pub const GRANTS_MAX: usize = 64;
/// What a peer calls its software.
pub const AGENT_BYTES_MAX: usize = 128;

/// A subject or a pattern.
pub const SUBJECT_BYTES_MAX: usize = 256;
/// Tokens of a subject or a pattern.
pub const SUBJECT_TOKENS_MAX: usize = 16;

/// Headers of a call or an answer.
pub const HEADERS_MAX: usize = 64;
/// All headers together, names and values.
pub const HEADER_BYTES_MAX: usize = 8192;
/// The body of a call or an answer.
pub const DIRECT_BODY_BYTES_MAX: usize = 1024 * 1024;
/// The data of a published message: what gossip carries (1 MiB) less room for its envelope.
pub const PUBLISH_BODY_BYTES_MAX: usize = 1024 * 1024 - 16 * 1024;
/// Attributes and extensions of a message, everything except its data.
pub const MESSAGE_ATTRIBUTES_BYTES_MAX: usize = 8192;
/// Extension attributes of a message.
pub const EXTENSIONS_MAX: usize = 32;
/// The identifier, source or type of a message.
pub const MESSAGE_ATTRIBUTE_BYTES_MAX: usize = 512;
/// A whole message: its data, its attributes and what CBOR adds.
pub const MESSAGE_BYTES_MAX: usize = DIRECT_BODY_BYTES_MAX + MESSAGE_ATTRIBUTES_BYTES_MAX + 1024;
/// A whole publication, with the capabilities it may carry.
pub const PUBLICATION_BYTES_MAX: usize = 1024 * 1024 + 8 * 1024;
/// Publications of one frame.
pub const FRAME_PUBLICATIONS_MAX: usize = 1024;
/// A frame of publications: one of the largest, or many small ones.
pub const FRAME_BYTES_MAX: usize = PUBLICATION_BYTES_MAX + 64;
/// What a publisher says directly to a member: a frame and its number.
pub const DIRECT_ITEM_BYTES_MAX: usize = FRAME_BYTES_MAX + 32;
/// Lines of publications in one comparison of how far they were followed.
pub const HEADS_MAX: usize = 4096;
/// Patterns by which a node says what it subscribes to.
pub const INTEREST_PATTERNS_MAX: usize = 128;
/// The name of a queue group, or of the attribute that holds its key.
pub const GROUP_BYTES_MAX: usize = 64;
/// Queue groups of which a publication says who is to take it.
pub const PICKS_MAX: usize = 32;
/// Frames handed over in one answer.
pub const ORIGINALS_MAX: usize = 256;
/// What a node says of a traced message.
pub const HOP_BYTES_MAX: usize = 512;
/// A question for lost publications, or its answer: at least one of the largest frames.
pub const REPAIR_BYTES_MAX: usize = FRAME_BYTES_MAX + 512;
/// A whole call or answer, with its headers and hello.
pub const CALL_BYTES_MAX: usize = DIRECT_BODY_BYTES_MAX + HEADER_BYTES_MAX + HELLO_BYTES_MAX + 2048;

/// A signed node record.
pub const RECORD_BYTES_MAX: usize = 32 * 1024;
/// Addresses in a node record or ticket.
pub const ADDRESSES_MAX: usize = 16;
/// One multiaddress.
pub const ADDRESS_BYTES_MAX: usize = 256;
/// Announcements in a node record.
pub const ANNOUNCEMENTS_MAX: usize = 16;
/// One announcement.
pub const ANNOUNCEMENT_BYTES_MAX: usize = 8 * 1024;
/// Longest life of a node record, one day in milliseconds.
pub const RECORD_TTL_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// Services one node announces.
pub const SERVICES_MAX: usize = 64;
/// What one NATS door says its clients listen to; beyond it, only that there is more.
pub const NATS_INTERESTS_MAX: usize = 256;
/// The same in bytes.
pub const NATS_INTEREST_BYTES_MAX: usize = 4 * 1024;
/// What is there at one node, for presence.
pub const PRESENCES_MAX: usize = 128;
/// Bytes of a message that is said when something is gone.
pub const WILL_BYTES_MAX: usize = 1024;
/// The address of a NATS door: a host's name, a colon and a port.
pub const NATS_ADDRESS_BYTES_MAX: usize = 253 + 6;
/// Messages that one NATS door sends another at once.
pub const NATS_ITEMS_MAX: usize = 256;
/// Endpoints of one service.
pub const ENDPOINTS_MAX: usize = 64;
/// The JSON Schema of one endpoint.
pub const SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// All schemas in one answer.
pub const SCHEMAS_BYTES_MAX: usize = 512 * 1024;
/// A part of a body that is sent in parts.
pub const STREAM_PART_BYTES_MAX: usize = 64 * 1024;
/// A caller's key for a call that it may send twice.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;
/// Which versions of a service will do, in words such as `^1.2`.
pub const VERSION_REQUIREMENT_BYTES_MAX: usize = 128;

/// A frame of the admission protocol.
pub const ADMISSION_BYTES_MAX: usize = 64 * 1024;
/// A message of the control protocol.
pub const CONTROL_BYTES_MAX: usize = 256 * 1024;
/// The padding of one burst, by which a connection's throughput is measured.
pub const BURST_BYTES_MAX: usize = 64 * 1024;
/// Notices in one admission or control message.
pub const NOTICES_PER_MESSAGE_MAX: usize = 512;
/// Records in one control message.
pub const RECORDS_PER_MESSAGE_MAX: usize = 512;
/// Keys a `PullRecords` can say it already has.
pub const HAVE_MAX: usize = 5000;
/// Records of which a `PullLacking` can say that it already has them.
pub const MARKS_MAX: usize = 20_000;

/// How far two honest clocks may be apart, in milliseconds.
pub const CLOCK_SKEW_MS_MAX: u64 = 120_000;

/// A payload that travels apart from its message.
pub const BLOB_BYTES_MAX: u64 = 64 << 30;
