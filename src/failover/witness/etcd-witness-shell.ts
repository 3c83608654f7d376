/**
 * The witness in etcd, asked over HTTP: one end point after the other until one answers, the last
 * good one first. A request that one end point has perhaps carried out may be repeated at another.
 */
import { describeError, ProtocolError } from '../../lib/index.js';
import { bootTimeUs } from '../../linux/index.js';
import { ANSWER_BYTES_MAX, REASON_LENGTH_MAX } from '../limits.js';
import {
  decodeAsk,
  decodeLease,
  type EtcdOutcome,
  encodeAsk,
  encodeLease,
  encodeRelease,
} from './etcd-wire.js';
import type { Witness, WitnessAnswer, WitnessIdentity, WitnessRequest } from './witness.js';

export interface EtcdWitnessOptions {
  readonly identity: WitnessIdentity;
  /** `http://host:port`, at least one. */
  readonly endpoints: readonly string[];
  readonly ttlUs: number;
  /** For one answer, whatever number of end points it takes. */
  readonly timeoutMs: number;
}

export class EtcdWitness implements Witness {
  readonly name: string;
  readonly #options: EtcdWitnessOptions;
  readonly #closing = new AbortController();
  /** The end point that answered last. */
  #first = 0;
  /** Of the last grant. */
  #revision: number | undefined;

  constructor(options: EtcdWitnessOptions) {
    this.#options = options;
    this.name = `etcd ${options.endpoints.join(', ')}`;
  }

  async ask(request: WitnessRequest): Promise<WitnessAnswer> {
    const deadline = AbortSignal.timeout(this.#options.timeoutMs);
    try {
      let known = request.knownToken;
      for (let attempt = 0; attempt < 2; attempt += 1) {
        const { outcome, askedAtUs, ttlUs } = await this.#askOnce(
          { ...request, knownToken: known },
          deadline,
        );
        switch (outcome.kind) {
          case 'granted':
            this.#revision = outcome.revision;
            return { kind: 'granted', token: outcome.revision, askedAtUs, ttlUs };
          case 'held':
            return { kind: 'denied', holder: outcome.holder, stale: false };
          case 'stale':
            return { kind: 'denied', holder: outcome.holder, stale: true };
          case 'own':
            // An answer was lost, here or before this process started.
            known = outcome.token;
        }
      }
      return { kind: 'unreachable', reason: 'The alone token changes all the time' };
    } catch (error) {
      return { kind: 'unreachable', reason: describeError(error).slice(0, REASON_LENGTH_MAX) };
    }
  }

  async release(): Promise<void> {
    const revision = this.#revision;
    if (revision === undefined) return;
    const { identity, timeoutMs } = this.#options;
    const deadline = AbortSignal.timeout(timeoutMs);
    try {
      await this.#post('/v3/kv/txn', encodeRelease(identity.vm, revision), deadline);
    } catch {
      // It expires by itself.
    }
  }

  close(): void {
    this.#closing.abort();
  }

  async #askOnce(
    request: WitnessRequest,
    deadline: AbortSignal,
  ): Promise<{ outcome: EtcdOutcome; askedAtUs: number; ttlUs: number }> {
    const { identity, ttlUs } = this.#options;
    const askedAtUs = bootTimeUs();
    const lease = decodeLease(await this.#post('/v3/lease/grant', encodeLease(ttlUs), deadline));
    const body = encodeAsk(identity, request, lease.id);
    const outcome = decodeAsk(await this.#post('/v3/kv/txn', body, deadline), identity.host);
    return { outcome, askedAtUs, ttlUs: lease.ttlUs };
  }

  /** Each end point has a part of the time, so that one that hangs leaves some to others. */
  async #post(path: string, body: object, deadline: AbortSignal): Promise<unknown> {
    const { endpoints, timeoutMs } = this.#options;
    const partMs = Math.max(1, Math.floor(timeoutMs / (2 * endpoints.length)));
    let last: unknown;
    for (let count = 0; count < endpoints.length; count += 1) {
      const index = (this.#first + count) % endpoints.length;
      const part = AbortSignal.timeout(partMs);
      const signal = AbortSignal.any([deadline, part, this.#closing.signal]);
      try {
        const answer = await postJson(`${endpoints[index]}${path}`, body, signal);
        this.#first = index;
        return answer;
      } catch (error) {
        last = error;
        if (deadline.aborted || this.#closing.signal.aborted) break;
      }
    }
    throw last;
  }
}

async function postJson(url: string, body: object, signal: AbortSignal): Promise<unknown> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
    redirect: 'error',
    signal,
  });
  const text = await readBounded(response);
  if (!response.ok) throw new ProtocolError(`etcd answered ${response.status}: ${text}`);
  return JSON.parse(text) as unknown;
}

async function readBounded(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of response.body ?? []) {
    length += chunk.length;
    if (length > ANSWER_BYTES_MAX) throw new ProtocolError('etcd answered without end');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}
