import { ColoError } from '../../lib/index.js';
import type { HandedLink, LinkHandover } from '../../replication/index.js';
import type { Session } from '../../transport/index.js';

/** A `WorkerClient` of either end of the lane. */
interface LaneThread {
  call(name: 'attach', link: HandedLink): Promise<void>;
}

/** Gives the session's faults link to the lane's thread. If either has ended, others are told. */
export async function giveFaultsLink(
  thread: LaneThread,
  handover: LinkHandover,
  session: Session,
): Promise<void> {
  try {
    await thread.call('attach', await handover.give(session));
  } catch (error) {
    if (!(error instanceof ColoError)) throw error;
  }
}
