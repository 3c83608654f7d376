/**
 * What an operator types and what runs the nodes: argument parsing, exit codes, logs, the control
 * socket; no decisions about guests.
 *
 * colo:   arguments -> colo-arguments.ts -> colo-command.ts -> control-client-shell.ts -> socket
 *         config-check.ts -> config-check-host.ts (check-config, without an agent)
 *         pki/ (a CA and certificates, without an agent)
 * agents: arguments -> src/config -> daemon.ts -> startPrimary or startSecondary
 *         socket -> control-server-shell.ts -> control-wire.ts -> NodeControl
 *         service-manager.ts -> service-notice.ts -> systemd
 *
 * Nothing imports this folder but tests; its mains are colo.ts, colo-primary.ts, colo-secondary.ts.
 */
export { parseColoArguments } from './colo-arguments.js';
export { runColo, type Surroundings } from './colo-command.js';
export { callAgent } from './control-client-shell.js';
export { type ControlCounters, ControlServer } from './control-server-shell.js';
export { runDaemon } from './daemon.js';
export { AgentUnreachable, EXIT, exitCodeOf } from './exit-codes.js';
export { createLogger, type DaemonLogger } from './logger.js';
export { formatStatus } from './status-text.js';
