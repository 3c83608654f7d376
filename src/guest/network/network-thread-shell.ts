/** Entry of the network thread: its door; all it does is in network-shell.ts. */
import type { CaptureOptions, CommandResult } from '../../config/index.js';
import { type GuestPortFds, setShortSlice } from '../../linux/index.js';
import {
  type HandedLink,
  HandedLinks,
  type LinkCalls,
  type LinkNotices,
} from '../../replication/index.js';
import { serveWorker } from '../../transport/index.js';
import { STATS_INTERVAL_MS } from './limits.js';
import { Network, type NetworkOptions, type SessionRole } from './network-shell.js';
import type { NetworkStats } from './network-stats.js';
import type { CompareReason } from './source-role-shell.js';

/** What the thread is started with. */
export type NetworkSettings = Omit<NetworkOptions, 'log' | 'onCheckpointNeeded'>;

/** What the main thread may ask; see Network, SourceRole and TargetRole. */
export interface NetworkCalls extends LinkCalls {
  start(settings: NetworkSettings): Promise<GuestPortFds[]>;
  closeQemuFds(): void;
  stop(): void;
  attach(link: HandedLink, as: SessionRole): void;
  detach(): void;
  quiesce(): Promise<boolean>;
  drain(): boolean;

  edge(epoch: number, options: { exact: boolean; compares: boolean }): void;
  resume(): void;
  startCompare(epoch: number): void;
  capture(options: CaptureOptions): Promise<CommandResult>;
  release(epoch: number): void;
  open(): void;
  silence(): void;

  rewind(): void;
  run(epoch: number): void;
  committed(epoch: number): void;
  promote(output: 'open' | 'held'): void;
  goLive(options: { announce: boolean }): void;
  announce(): void;
}

/** What the main thread is told. */
export interface NetworkNotices extends LinkNotices {
  checkpointNeeded(reason: CompareReason, epoch: number): void;
  stats(stats: NetworkStats): void;
}

serveWorker<NetworkCalls, NetworkNotices>((main) => {
  const links = new HandedLinks(main);
  let network: Network | undefined;
  let timer: NodeJS.Timeout | undefined;
  const started = (): Network => {
    if (network === undefined) throw new Error('The network is not started');
    return network;
  };
  return {
    async start(settings) {
      setShortSlice();
      network = new Network({
        ...settings,
        log: main.log,
        onCheckpointNeeded: (reason, epoch) => main.notify('checkpointNeeded', reason, epoch),
      });
      const fds = await network.start();
      timer = setInterval(() => {
        main.notify('stats', started().stats);
        links.report();
      }, STATS_INTERVAL_MS);
      return fds;
    },
    closeQemuFds: () => started().closeQemuFds(),
    stop() {
      clearInterval(timer);
      network?.stop();
    },
    attach: (link, as) => started().attach(links.take(link), as),
    ...links.calls,
    detach: () => started().detach(),
    quiesce: () => started().quiesce(),
    drain: () => started().drain(),

    edge: (epoch, options) => started().source.edge(epoch, options),
    resume: () => started().source.resume(),
    startCompare: (epoch) => started().source.startCompare(epoch),
    capture: (options) => started().source.capture(options),
    release: (epoch) => started().source.release(epoch),
    open: () => started().source.open(),
    silence: () => started().source.silence(),

    rewind: () => started().target.rewind(),
    run: (epoch) => started().target.run(epoch),
    committed: (epoch) => started().target.committed(epoch),
    promote: (output) => started().promote(output),
    goLive: (options) => started().goLive(options),
    announce: () => started().announce(),
  };
});
