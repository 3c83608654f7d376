/** Entry of the guard's thread: its door; all it does is in guard-shell.ts. */
import { setShortSlice } from '../../linux/index.js';
import { serveWorker } from '../../transport/index.js';
import {
  type GuardNews,
  type GuardSettings,
  GuardShell,
  type GuardStatus,
  type HeartbeatPeer,
} from './guard-shell.js';
import type { HeartbeatSide } from './heartbeat-seal-shell.js';
import type { GuardInput } from './speech-guard.js';

/** What the main thread may ask; see GuardShell. */
export interface GuardCalls {
  start(settings: GuardSettings): void;
  listen(addresses: readonly string[]): Promise<number[]>;
  connect(peers: readonly HeartbeatPeer[], secret: Uint8Array, side: HeartbeatSide): void;
  input(input: GuardInput): void;
  status(): GuardStatus;
  stop(reason: string): Promise<void>;
}

/** What the main thread is told. */
export interface GuardNotices {
  news(news: GuardNews): void;
}

serveWorker<GuardCalls, GuardNotices>((main) => {
  let guard: GuardShell | undefined;
  const started = (): GuardShell => {
    if (guard === undefined) throw new Error('The guard is not started');
    return guard;
  };
  return {
    start(settings) {
      // A heartbeat that is late looks like a host that is slow.
      setShortSlice();
      guard = new GuardShell(settings, main.log, (news) => main.notify('news', news));
    },
    listen: (addresses) => started().listen(addresses),
    connect: (peers, secret, side) => started().connect(peers, secret, side),
    input: (input) => started().input(input),
    status: () => started().status,
    async stop(reason) {
      await guard?.stop(reason);
    },
  };
});
