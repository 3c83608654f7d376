/**
 * The cells of the fault matrix: what is broken, on which side of the pair, and what is right then.
 * Pure.
 */
import { TIMED_CLIENTS, type TimedClientName } from '../clients/client.js';

export const FAULTS = [
  'kill-agent',
  'kill-qemu',
  'stop-agent',
  'stop-qemu',
  'power-cut',
  'link-cut',
  'link-one-way',
  'link-loss',
  'link-delay',
  'lan-cut',
  'lan-silent',
  'etcd-stopped',
  'etcd-cut',
  'disk-full',
] as const;
export type Fault = (typeof FAULTS)[number];

/** Of the pair as it is when the fault comes. */
export type Side = 'primary' | 'secondary';

/**
 * | outcome    | while the fault lasts                                                         |
 * | ---------- | ----------------------------------------------------------------------------- |
 * | failover   | the other host runs the guest                                                 |
 * | alone      | the primary runs it on, without a secondary                                   |
 * | reprotects | the primary runs it on, and is protected again before anything is mended      |
 * | protected  | nothing changes                                                               |
 * | stays      | the primary runs it on; whether it is protected depends on the weather        |
 */
export type Outcome = 'failover' | 'alone' | 'reprotects' | 'protected' | 'stays';

export interface Cell {
  readonly fault: Fault;
  readonly side: Side;
  readonly expected: Outcome;
  readonly bound: Bound;
}

/**
 * How long clients may be without an answer.
 *
 * | bound     | until                                                                          |
 * | --------- | ------------------------------------------------------------------------------ |
 * | `loss`    | a silent peer counts as lost, and half a second more                           |
 * | `gateway` | a gateway that does not answer counts as cut off, and clients repeat themselves |
 * | `weather` | a peer that lives and does not follow is given up (hold-limit), and half a second |
 * | `none`    | what an ordinary checkpoint takes on a busy machine                            |
 */
export type Bound = 'loss' | 'gateway' | 'weather' | 'none';

/** `at the primary | at the secondary`. A primary whose secondary is lost holds its output till then. */
const EXPECTED: Readonly<Record<Fault, readonly [Outcome, Outcome, Bound]>> = {
  'kill-agent': ['failover', 'alone', 'loss'],
  'kill-qemu': ['failover', 'reprotects', 'loss'],
  'stop-agent': ['failover', 'alone', 'loss'],
  'stop-qemu': ['failover', 'reprotects', 'loss'],
  'power-cut': ['failover', 'alone', 'loss'],
  'link-cut': ['alone', 'alone', 'loss'],
  'link-one-way': ['alone', 'alone', 'loss'],
  'link-loss': ['stays', 'stays', 'weather'],
  'link-delay': ['stays', 'stays', 'weather'],
  'lan-cut': ['failover', 'protected', 'loss'],
  'lan-silent': ['failover', 'protected', 'gateway'],
  'etcd-stopped': ['protected', 'protected', 'none'],
  'etcd-cut': ['protected', 'protected', 'none'],
  'disk-full': ['failover', 'alone', 'loss'],
};

/** There is one etcd: that it is stopped happens on neither side. */
const ONE_SIDED: readonly Fault[] = ['etcd-stopped'];
/** Nobody hears of it whose LAN is cut but the guest's clients. */
const UNNOTICED: readonly Fault[] = ['lan-cut', 'lan-silent'];

export const CELLS: readonly Cell[] = FAULTS.flatMap((fault) => {
  const [primary, secondary, bound] = EXPECTED[fault];
  const cell: Cell = { fault, side: 'primary', expected: primary, bound };
  if (ONE_SIDED.includes(fault)) return [cell];
  const other: Cell = { fault, side: 'secondary', expected: secondary, bound };
  return [cell, UNNOTICED.includes(fault) ? { ...other, bound: 'none' } : other];
});

/**
 * Who is asked. In bad weather a fetch of 1 MiB takes as long as it takes: many round trips, each
 * as long as a checkpoint.
 */
export function judgedClients({ bound }: Cell): readonly TimedClientName[] {
  return bound === 'weather' ? ['redis', 'stream'] : TIMED_CLIENTS;
}

/** As in `--cells` and in the table. */
export function nameOf({ fault, side }: Pick<Cell, 'fault' | 'side'>): string {
  return ONE_SIDED.includes(fault) ? fault : `${fault}/${side}`;
}
