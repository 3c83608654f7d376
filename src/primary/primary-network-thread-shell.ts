/** Entry of the primary's network thread: its door; all it does is in primary-network-shell.ts. */
import type { CaptureOptions, CommandResult } from '../config/index.js';
import type { GuestPortFds } from '../linux/index.js';
import { type HandedLink, HandedLinks } from '../replication/index.js';
import { type LinkReport, serveWorker } from '../transport/index.js';
import { STATS_INTERVAL_MS } from './limits.js';
import {
  type CompareReason,
  type NetworkStats,
  PrimaryNetwork,
  type PrimaryNetworkOptions,
} from './primary-network-shell.js';

/** What the thread is started with. */
export type NetworkSettings = Omit<PrimaryNetworkOptions, 'log' | 'onCheckpointNeeded'>;

/** What the main thread may ask; see PrimaryNetwork. */
export interface NetworkCalls {
  start(settings: NetworkSettings): Promise<GuestPortFds[]>;
  closeQemuFds(): void;
  stop(): Promise<void>;
  attach(link: HandedLink, epoch: number): void;
  closeLink(serial: number): void;
  destroyLink(serial: number): void;
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
}

/** What the main thread is told. */
export interface NetworkNotices {
  checkpointNeeded(reason: CompareReason, epoch: number): void;
  linkReport(serial: number, report: LinkReport): void;
  stats(stats: NetworkStats): void;
}

serveWorker<NetworkCalls, NetworkNotices>((main) => {
  const links = new HandedLinks(main.log, (serial, report) =>
    main.notify('linkReport', serial, report),
  );
  let network: PrimaryNetwork | undefined;
  let timer: NodeJS.Timeout | undefined;
  const started = (): PrimaryNetwork => {
    if (network === undefined) throw new Error('The network is not started');
    return network;
  };
  return {
    async start(settings) {
      network = new PrimaryNetwork({
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
    async stop() {
      clearInterval(timer);
      await network?.stop();
    },
    attach: (link, epoch) => started().attach(links.take(link), epoch),
    closeLink: (serial) => links.close(serial),
    destroyLink: (serial) => links.destroy(serial),
    detach: () => started().detach(),
    quiesce: () => started().quiesce(),
    drain: () => started().drain(),
    edge: (epoch, options) => started().edge(epoch, options),
    resume: () => started().resume(),
    startCompare: (epoch) => started().startCompare(epoch),
    capture: (options) => started().capture(options),
    release: (epoch) => started().release(epoch),
    open: () => started().open(),
    silence: () => started().silence(),
  };
});
