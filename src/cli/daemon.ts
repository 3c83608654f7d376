/**
 * The main of both daemons: arguments and configuration, log, control socket, node, signals, exit.
 *
 * Order at the start: the control socket is taken before the node starts, so that a second agent
 * for the same VM ends before it has touched the guest. Order at the end: node, socket, log.
 * SIGTERM or SIGINT stops in order; a second one exits at once (QEMU dies with us, PDEATHSIG).
 * While the node is still starting there is nothing to stop in order, so the first one exits too.
 */
import { hostname } from 'node:os';
import {
  type Configuration,
  ConfigurationError,
  formatConfiguration,
  formatHelp,
  type Role,
  type RunningNode,
  readArguments,
  resolveConfiguration,
  type StartNode,
} from '../config/index.js';
import { describeError } from '../lib/index.js';
import { endWorkers } from '../transport/index.js';
import { ControlServer } from './control-server-shell.js';
import { EXIT, exitCodeOf } from './exit-codes.js';
import { relaxCollector } from './garbage-collector.js';
import { createLogger, type DaemonLogger } from './logger.js';
import { readFileBounded } from './read-file.js';
import { ServiceManager } from './service-manager.js';
import { packageVersion } from './version.js';

const SIGNAL_NUMBERS = { SIGINT: 2, SIGTERM: 15 } as const;
type StopSignal = keyof typeof SIGNAL_NUMBERS;

/** Runs a daemon until its end and exits the process with its exit code. Never returns. */
export async function runDaemon<R extends Role>(
  role: R,
  start: StartNode<Extract<Configuration, { role: R }>>,
): Promise<never> {
  const configuration = configure(role, process.argv.slice(2));
  relaxCollector();
  const daemon = new Daemon(configuration);
  daemon.watchSignals();
  return await daemon.run(start as StartNode<Configuration>);
}

/** The effective configuration; prints and exits where that is all that was asked for. */
function configure(role: Role, argv: readonly string[]): Configuration {
  const { action } = readArguments(argv, role);
  if (action === 'help' || action === 'version') {
    process.stdout.write(action === 'help' ? formatHelp(role) : `${packageVersion()}\n`);
    process.exit(EXIT.ok);
  }
  try {
    const configuration = resolveConfiguration({
      role,
      argv,
      env: process.env,
      hostname: hostname(),
      readFile: readFileBounded,
    });
    if (action === 'run') return configuration;
    process.stdout.write(formatConfiguration(configuration));
    process.exit(EXIT.ok);
  } catch (error) {
    if (!(error instanceof ConfigurationError)) throw error;
    const lines = error.message.split('\n').map((line) => `colo-${role}: ${line}\n`);
    process.stderr.write(lines.join(''));
    process.exit(error.exitCode);
  }
}

/** One daemon's life; everything in it happens once. */
class Daemon {
  readonly #configuration: Configuration;
  readonly #log: DaemonLogger;
  readonly #manager: ServiceManager;
  #server: ControlServer | undefined;
  #node: RunningNode | undefined;
  #stopping = false;
  #exiting = false;

  constructor(configuration: Configuration) {
    const { role, host, vm, logLevel, logFormat } = configuration;
    this.#configuration = configuration;
    this.#log = createLogger({ role, host, vm, level: logLevel, format: logFormat });
    this.#manager = new ServiceManager(process.env, this.#log);
  }

  watchSignals(): void {
    for (const signal of Object.keys(SIGNAL_NUMBERS) as StopSignal[]) {
      process.on(signal, () => void this.#onSignal(signal));
    }
    const onBug = (error: unknown): void => {
      const stack = error instanceof Error ? error.stack : undefined;
      this.#log.error('A bug ends the agent', { error: describeError(error), stack });
      void this.#exit(EXIT.bug);
    };
    process.on('uncaughtException', onBug);
    process.on('unhandledRejection', onBug);
  }

  async run(start: StartNode<Configuration>): Promise<never> {
    const configuration = this.#configuration;
    try {
      this.#log.info('The agent starts', { version: packageVersion(), pid: process.pid });
      const { socketPath } = configuration;
      this.#server = await ControlServer.start({ path: socketPath, log: this.#log });
      this.#node = await start(configuration, this.#log);
      const { control } = this.#node;
      this.#server.serve(control);
      this.#manager.ready(() => control.status());
    } catch (error) {
      const code = exitCodeOf(error);
      const stack = code === EXIT.bug && error instanceof Error ? error.stack : undefined;
      this.#log.error('The agent could not start', { error: describeError(error), stack });
      return await this.#exit(code);
    }
    const { exitCode, reason } = await this.#node.finished;
    this.#manager.stopping();
    const level = exitCode === EXIT.ok ? 'info' : 'error';
    this.#log[level]('The agent ends', { exitCode, reason });
    return await this.#exit(exitCode);
  }

  async #onSignal(signal: StopSignal): Promise<void> {
    const atOnce = 128 + SIGNAL_NUMBERS[signal];
    if (this.#stopping) process.exit(atOnce);
    this.#stopping = true;
    this.#manager.stopping();
    this.#log.info('Stopping', { signal });
    if (this.#node === undefined) return void (await this.#exit(atOnce));
    await this.#node.stop(signal);
  }

  async #exit(code: number): Promise<never> {
    // Whoever comes second waits for the first, which ends the process.
    if (this.#exiting) return await new Promise<never>(() => {});
    this.#exiting = true;
    await this.#server?.stop();
    await endWorkers();
    await this.#log.close();
    this.#manager.close();
    process.exit(code);
  }
}
