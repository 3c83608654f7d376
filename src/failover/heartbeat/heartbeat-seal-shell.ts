/**
 * The keys of one session's heartbeats, made from the secret in its hello: one for each direction,
 * so that a datagram thrown back at its sender is no heartbeat of the peer.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import { assert } from '../../lib/index.js';
import {
  HEARTBEAT_ID_BYTES,
  HEARTBEAT_KEY_BYTES,
  HEARTBEAT_MAC_BYTES,
  type HeartbeatSeal,
} from './heartbeat-wire.js';

/** Who of the two made the secret: the one that offers the session, or the one that accepts it. */
export type HeartbeatSide = 'offering' | 'accepting';

/** `secret` has HEARTBEAT_KEY_BYTES. */
export function createHeartbeatSeal(secret: Uint8Array, side: HeartbeatSide): HeartbeatSeal {
  assert(secret.length === HEARTBEAT_KEY_BYTES, `A key of ${secret.length} bytes`);
  const [ours, theirs] = [derive(secret, side), derive(secret, otherSide(side))];
  const seal = (key: Buffer, bytes: Buffer): Buffer =>
    createHmac('sha256', key).update(bytes).digest().subarray(0, HEARTBEAT_MAC_BYTES);
  return {
    id: derive(secret, 'id').subarray(0, HEARTBEAT_ID_BYTES),
    sign: (bytes) => seal(ours, bytes),
    isTheirs: (bytes, mac) => timingSafeEqual(seal(theirs, bytes), mac),
  };
}

function derive(secret: Uint8Array, purpose: HeartbeatSide | 'id'): Buffer {
  return createHmac('sha256', secret).update(`colo heartbeat 2 ${purpose}`).digest();
}

function otherSide(side: HeartbeatSide): HeartbeatSide {
  return side === 'offering' ? 'accepting' : 'offering';
}
