/** Every bound of the network proxy: unit in the name, then why this much, then what happens. */

/** The virtio_net_hdr in front of each live frame; see batch-wire.ts. */
export const VNET_HEADER_BYTES = 10;

/** A virtio_net_hdr and an Ethernet header. Shorter is no frame: `ProtocolError` from the peer. */
export const FRAME_BYTES_MIN = VNET_HEADER_BYTES + 14;

/**
 * The largest IP packet (65,535) behind an Ethernet header with two VLAN tags and a virtio_net_hdr;
 * QEMU's own NET_BUFSIZE is 68 KiB. From the guest a longer one is cut off by the kernel and
 * dropped; from the peer it is a `ProtocolError`.
 */
export const FRAME_BYTES_MAX = VNET_HEADER_BYTES + 22 + 65_535;

/**
 * A batch from the peer. A wake-up gives at most 512 KiB; twice that leaves room to join batches.
 * Longer is a `ProtocolError`.
 */
export const BATCH_BYTES_MAX = 1024 * 1024;

/**
 * Guest output held for a commit. Past the soft bound the gate asks for a checkpoint: 8 MiB is
 * 70 ms of a 1 Gbit/s link, below the shortest checkpoint interval (100 ms).
 */
export const HELD_BYTES_SOFT = 8 * 1024 * 1024;
export const HELD_FRAMES_SOFT = 16_384;

/**
 * Past the hard bound QEMU's socket is not read until a release: the guest's transmit queue fills
 * and its stack waits, as behind a slow wire. Memory: 64 MiB per NIC, small beside a guest's RAM.
 * The gate can exceed it by one batch, and at a pause by what the socket holds (8 MiB).
 */
export const HELD_BYTES_HARD = 64 * 1024 * 1024;
export const HELD_FRAMES_HARD = 131_072;

/**
 * Bytes queued towards QEMU because its socket (8 MiB of kernel memory) is full: the guest is
 * stopped or slow. The LAN is not read then, so this is for what the peer mirrors. 4 MiB are 30 ms
 * of 1 Gbit/s; beyond, the newest batch is dropped and counted, as a NIC with a full receive ring
 * does.
 */
export const GUEST_QUEUE_BYTES_MAX = 4 * 1024 * 1024;

/**
 * Frames, and bytes to within a batch, written to the TAP before the event loop gets a turn: about
 * 1 ms, so that releasing an epoch's output delays no heartbeat.
 */
export const LAN_FRAMES_PER_TURN = 256;
export const LAN_BYTES_PER_TURN = 1024 * 1024;

/**
 * Frames written after one look at the lease. A process that is stopped between the look and the
 * writes sends at most these when it goes on, and none where the kernel looks, too
 * (src/linux/output-deadline.ts). One look costs about as much as one frame.
 */
export const LEASE_FRAMES_PER_CHECK = 16;

/**
 * Released but not yet written to the TAP. Normally an epoch's output at most (the guest's own
 * pace is slower than the TAP); beyond, QEMU's socket is not read until it has drained.
 */
export const LAN_QUEUE_BYTES_HARD = 16 * 1024 * 1024;

/**
 * Frames that the kernel keeps for us in the TAP while inbound is paused around a checkpoint
 * (`txqueuelen`): 5 ms of full-size frames at 5 Gbit/s. Beyond, the kernel drops the newest and
 * counts them (`Nic.kernelDroppedFrames`).
 */
export const TAP_QUEUE_FRAMES = 2048;

/**
 * Addresses remembered per NIC. One more forgets the least recently used, unconfirmed ones first.
 */
export const LEARNED_ADDRESSES_MAX = 32;

/**
 * Inbound kept on the secondary for redelivery: one epoch of 200 ms at 1 Gbit/s is 25 MiB. Beyond,
 * the oldest is dropped and counted; clients retransmit it.
 */
export const INBOUND_LOG_BYTES_MAX = 64 * 1024 * 1024;

/**
 * Small batches cost memory beyond their bytes; this bounds the log of an idle guest whose
 * checkpoints never commit. Beyond: as above.
 */
export const INBOUND_LOG_BATCHES_MAX = 65_536;

/**
 * How long a frame may lie between our write and the guest's stop without having been consumed:
 * frames that arrived less than this before an epoch mark are delivered again after it.
 */
export const INBOUND_OVERLAP_US = 20_000;

/** Epoch marks remembered at once; one transaction runs at a time, so more are a broken peer. */
export const EPOCH_MARKS_MAX = 64;

/**
 * When announcements are sent after a failover. The first moves the switches and neighbours over,
 * the rest repair what a lossy network dropped; QEMU's `announce-self` uses the same shape.
 */
export const ANNOUNCE_DELAYS_MS: readonly number[] = [0, 50, 150, 350, 750];

/**
 * So much output of a guest, from just before its stop until it is drained, fits into its socket
 * without QEMU waiting for room: an eighth of what the socket holds, with the smallest frames too.
 */
export const SETTLED_FRAMES_MAX = 512;
export const SETTLED_BYTES_MAX = 512 * 1024;

/**
 * Connections whose numbers are translated, per NIC: those opened since the last checkpoint, and
 * apart from them those that outlive checkpoints. Before a failover one more is a `ProtocolError`:
 * the primary asks for a checkpoint at this number of the former, and the latter are one table of
 * this size there. After a failover nothing that is translated is ever forgotten to make room;
 * connections whose timestamps are only watched are, oldest first: see
 * rewrite/translation-table.ts. Should both kinds together be more at a failover, the rest is
 * counted (`lostFlows`); their remote ends get a reset.
 */
export const TRANSLATIONS_MAX = 65_536;

/**
 * In one message of translations: 70 kB, which delays no mirrored packet for long. A larger table
 * is sent in several; more in one is a `ProtocolError`.
 */
export const TRANSLATION_RECORDS_MAX = 1024;

/** How often idle translations are looked for. A table of all that can be takes 10 ms. */
export const TRANSLATION_SWEEP_MS = 60_000;

/**
 * A connection that nobody has used for so many sweeps is forgotten: 5 days, as long as Linux's
 * connection tracking remembers an established one (nf_conntrack_tcp_timeout_established). Its
 * remote end has vanished; if not, its next segment is answered by a reset.
 */
export const TRANSLATION_IDLE_SWEEPS = 7200;

/**
 * After so many sweeps since a failover connections whose timestamps are only watched are
 * forgotten, and new ones are not watched: the guest's clock is beyond whatever the former guest
 * had said, which was ahead by seconds at most.
 */
export const TRANSLATION_WATCH_SWEEPS = 2;

/**
 * Closed connections that are still translated after a failover, for a last segment that was lost
 * and comes again. One more forgets the one that closed first, whose remote end then gets no
 * answer to such a segment and closes by time-out.
 */
export const TRANSLATIONS_CLOSED_MAX = 4096;

/**
 * By how much a connection's timestamps are set forward at the first segment after a failover, in
 * the guest's units (1 ms on Linux). It must cover the time that an apply took, by which the PVM's
 * clock was ahead, and the time by which the SVM's SYN came later than the PVM's (at most the
 * compare time-out): together well below a second. It also covers what the remote end has seen but
 * not echoed. Too little costs a pause until the SVM's clock has caught up, since the remote end
 * drops what seems old (RFC 7323 section 5); too much costs nothing.
 */
export const TIMESTAMP_MARGIN = 1000;

/**
 * An echoed timestamp further ahead of the guest's clock is nonsense and moves nothing: 2^28 are
 * three days in units of 1 ms and four minutes in units of 1 us, more than any two guests differ;
 * and a forger who names the largest value each time stays below the 2^31 that the remote end
 * would take for the past.
 */
export const TIMESTAMP_LEAD_MAX = 0x1000_0000;
/**
 * What `Nic.drain` reads at most: twice what the socket can hold. Meant for a guest that is stopped;
 * one that runs could go on for ever.
 */
export const DRAIN_BYTES_MAX = 16 * 1024 * 1024;

/**
 * Connections per NIC that are nudged after a failover, those heard last: 1024 are 9000 small
 * frames. One more waits for its own timers.
 */
export const RECENT_FLOWS_MAX = 1024;

/**
 * Errors in a nudge: each undoes one doubling of a timer, which begins at 0.2 s on Linux. Four are
 * those of an outage of three seconds; a longer one ends with the doublings that are left.
 */
export const NUDGE_ERRORS = 4;

/**
 * Of what an SVM has said last, to be said again after a failover: more than a few connections have
 * under way, and little for a network that has just been silent. What does not fit is said again by
 * the guest.
 */
export const RECENT_OUTPUT_BYTES_MAX = 512 * 1024;
