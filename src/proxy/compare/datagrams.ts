/**
 * Frames without a stream: the unit is a datagram, a fragment or a whole frame.
 *
 *     datagrams, fragments   the PVM's first one must equal the SVM's first one; in order
 *     opaque frames          the PVM's first one must equal any of the SVM's
 *
 * Addresses and ports are the flow's key and so equal; headers in front of the payload (IP
 * identification, time to live, checksums) are not compared. An SVM frame that the PVM doesn't
 * follow just waits for the end of the epoch, or until it is too old or too many (opaque).
 */
import { PACKET_FRAGMENT, PACKET_OPAQUE } from '../packet.js';
import { equalBytes } from './bytes.js';
import type { Flow, Frame, FrameList } from './flow.js';
import { HOLD, type Judgement, MISMATCH, RELEASE } from './judgement.js';
import { OPAQUE_WAITING_MAX, OPAQUE_WAITING_US } from './limits.js';
import type { Difference } from './mismatch.js';

/** Judges the flow's first held frame; releasing it uses up the SVM's twin. */
export function judgeDatagram(flow: Flow, secondary: FrameList, difference: Difference): Judgement {
  const [ours, theirs] = [flow.pvmHead, flow.svmHead];
  if (ours === undefined || theirs === undefined) return HOLD;
  if (ours.kind !== theirs.kind || ours.fragment !== theirs.fragment) {
    difference.set('fragment', 0, describePlaces(ours, theirs));
  } else if (!samePayload(ours, theirs)) {
    difference.set('datagram', 0, `${ours.payloadBytes} and ${theirs.payloadBytes} bytes`);
  } else {
    flow.shiftSvm();
    secondary.free(theirs);
    return RELEASE;
  }
  difference
    .primary(ours.batch, ours.payloadAt, ours.payloadEnd)
    .secondary(theirs.batch, theirs.payloadAt, theirs.payloadEnd);
  return MISMATCH;
}

/** The same for an opaque frame, which never is a mismatch: it may come yet. */
export function judgeOpaque(flow: Flow, secondary: FrameList): Judgement {
  const ours = flow.pvmHead;
  if (ours === undefined) return HOLD;
  let before: Frame | undefined;
  for (let theirs = flow.svmHead; theirs; before = theirs, theirs = theirs.next) {
    if (!samePayload(ours, theirs)) continue;
    if (before === undefined) {
      flow.shiftSvm();
    } else {
      before.next = theirs.next;
      if (theirs === flow.svmTail) flow.svmTail = before;
      flow.svmFrames--;
    }
    secondary.free(theirs);
    return RELEASE;
  }
  return HOLD;
}

/** Lets the SVM's opaque `frame` wait, and drops what has waited too long. */
export function waitOpaque(flow: Flow, secondary: FrameList, frame: Frame): void {
  flow.appendSvm(frame);
  const oldestUs = frame.arrivalUs - OPAQUE_WAITING_US;
  for (let first = flow.svmHead; first && first !== frame; first = flow.svmHead) {
    if (first.arrivalUs >= oldestUs && flow.svmFrames <= OPAQUE_WAITING_MAX) return;
    flow.shiftSvm();
    secondary.free(first);
  }
}

function samePayload(a: Frame, b: Frame): boolean {
  const length = a.payloadBytes;
  return (
    length === b.payloadBytes && equalBytes(a.batch, a.payloadAt, b.batch, b.payloadAt, length)
  );
}

function describePlaces(ours: Frame, theirs: Frame): string {
  return `${describePlace(ours)} and ${describePlace(theirs)}`;
}

function describePlace({ kind, fragment }: Frame): string {
  if (kind === PACKET_OPAQUE) return 'a frame';
  if (kind !== PACKET_FRAGMENT) return 'a whole packet';
  return `a ${fragment & 1 ? '' : 'last '}fragment at ${fragment & ~1}`;
}
