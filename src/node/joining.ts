/**
 * What a node becomes that its operator started as the primary: it asks the other host first. A
 * guest that runs there, or may run there in a moment, is not started twice (I4).
 */
import type { ProbeResult } from '../transport/index.js';

/** `ask`: the peer is about to decide; ask it again in a moment. */
export type Decision = 'boot' | 'be-secondary' | 'ask';

/** What the peer's answer means. No answer is no obstacle yet: there is no witness. */
export function decide(answer: ProbeResult): Decision {
  switch (answer) {
    case 'serving':
      return 'be-secondary';
    case 'holding':
      return 'ask';
    case 'alive':
    case 'replaced':
    case 'refused':
    case 'unreachable':
    case 'silent':
      return 'boot';
  }
}
