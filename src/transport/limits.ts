/**
 * Every bound of the transport: unit, why this value, what happens when it is hit.
 */
import type { Channel } from './channels.js';

/** The bounds of one link. All are bytes. */
export interface LinkLimits {
  /** Longest payload of one frame, both ways. Received: ProtocolError. Sent: a bug, assertion. */
  readonly maxPayloadBytes: number;
  /** At this many queued bytes `writable` turns false; a sender that looks waits. No harm done. */
  readonly highWaterBytes: number;
  /** More than this queued, or sent and not acknowledged, and the link is destroyed: the sender
   * ignores back-pressure, or the peer has stopped reading and nobody noticed. At half of it
   * unacknowledged `writable` turns false. */
  readonly queuedBytesMax: number;
}

const MIB = 1024 * 1024;

/**
 * Per channel. The payload bounds are what one message of that channel may need: a device state
 * (105 kB measured) on control, 1024 pages on ram, one large disk request on disk, a batch of guest
 * frames on network, 128 pages on faults. High water is some milliseconds of a 10 Gbit/s link:
 * enough to keep it busy, little enough that a later frame is not late. The hard bound is what a
 * host can spare.
 */
export const CHANNEL_LIMITS: Readonly<Record<Channel, LinkLimits>> = {
  control: { maxPayloadBytes: MIB, highWaterBytes: MIB, queuedBytesMax: 16 * MIB },
  ram: { maxPayloadBytes: 4 * MIB, highWaterBytes: 8 * MIB, queuedBytesMax: 64 * MIB },
  disk: { maxPayloadBytes: 2 * MIB, highWaterBytes: 8 * MIB, queuedBytesMax: 64 * MIB },
  network: { maxPayloadBytes: 2 * MIB, highWaterBytes: 4 * MIB, queuedBytesMax: 64 * MIB },
  faults: { maxPayloadBytes: MIB, highWaterBytes: MIB, queuedBytesMax: 16 * MIB },
};

/** Bytes of a link's stream that are read at once while it is not known what they are. What a
 * payload begins with is copied from there; more of it is, the larger this is, and more reads are
 * needed for small frames, the smaller. */
export const LINK_READ_BYTES = 32 * 1024;

/** Bytes of a payload that must be missing before they are read to their place: less is not worth a
 * read of its own. */
export const LINK_PLACE_BYTES_MIN = 8 * 1024;

/** Received bytes after which they are acknowledged at once: the replay memory of the sender is
 * some times that, and at 1 GB/s it is 500 small frames a second. */
export const ACK_BYTES = 2 * MIB;

/** Milliseconds after which anything received is acknowledged: the sender keeps it so much longer,
 * and a link that carries a frame each millisecond carries 5 % more of them. */
export const ACK_DELAY_MS = 20;

/** Milliseconds for the first attempt to connect again, doubled up to the second: a SYN that is
 * lost in a flap is sent again by the kernel only after a second, a new one at once. */
export const RESUME_CONNECT_MS = 100;
export const RESUME_CONNECT_MS_MAX = 1000;

/** Milliseconds between two attempts, doubled up to the second until the link is back. */
export const RESUME_PAUSE_MS = 10;
export const RESUME_PAUSE_MS_MAX = 160;

/** Milliseconds for the answer to a resume; then the link is connected afresh. */
export const RESUME_ANSWER_MS = 1000;

/** Milliseconds of silence after which the kernel looks whether the connection is still known at
 * the other end: a reset may have been lost, and an idle sender would never hear of it. */
export const KEEP_ALIVE_MS = 1000;

/** Bytes of text in an attachRefused: one sentence. A longer one is cut by the sender, and is a
 * ProtocolError at the receiver. */
export const REFUSAL_TEXT_MAX_BYTES = 512;

/** A connection that has not attached may send an attach and nothing else (ProtocolError). */
export const UNATTACHED_LIMITS: LinkLimits = {
  maxPayloadBytes: 4 + REFUSAL_TEXT_MAX_BYTES,
  highWaterBytes: 4096,
  queuedBytesMax: 16 * 1024,
};

/** Milliseconds from accept until a connection is part of a complete session: some round trips of a
 * bad link. Later it is dropped, and the incomplete session it belongs to. */
export const ATTACH_DEADLINE_MS = 3000;

/** Connections that are not part of a session: 16 peers that connect at once. One more and the
 * oldest of them is dropped, so that silent connections can't lock out a real peer. Incomplete
 * sessions hold at least one connection each, so this bounds them too. */
export const PENDING_CONNECTIONS_MAX = 64;

/** Milliseconds for a graceful close to flush and to see the peer's FIN; then it is destroyed. */
export const CLOSE_DEADLINE_MS = 2000;

/** Milliseconds before a probe whose connection was closed without an answer is made again: a
 * process that dies needs about as long to let go of its sockets. Ends with the probe's time-out.
 */
export const PROBE_PAUSE_MS = 5;

/**
 * For a thread that is to be terminated to close what it watches, milliseconds. Hit: it is in the
 * middle of something, and is ended there.
 */
export const WORKER_ENDING_MS_MAX = 1_000;
