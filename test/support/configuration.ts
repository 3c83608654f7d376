/** A configuration source without a machine behind it, for the tests of src/config and src/cli. */
import {
  type ConfigurationSource,
  type PrimaryConfiguration,
  type Role,
  resolveConfiguration,
  type SecondaryConfiguration,
} from '../../src/config/index.js';

/** Arguments and, if given, one file `/c` with this text. */
export function sourceOf(role: Role, argv: string[], file?: string): ConfigurationSource {
  return {
    role,
    argv: file === undefined ? argv : [...argv, '--config', '/c'],
    env: {},
    hostname: 'testhost',
    readFile: (path) =>
      path === '/c' && file !== undefined ? Buffer.from(file, 'utf8') : undefined,
  };
}

/** The primary's configuration from these arguments and this file. */
export function resolvePrimary(argv: string[], file?: string): PrimaryConfiguration {
  return resolveConfiguration(sourceOf('primary', argv, file)) as PrimaryConfiguration;
}

/** The secondary's configuration from these arguments and this file. */
export function resolveSecondary(argv: string[], file?: string): SecondaryConfiguration {
  return resolveConfiguration(sourceOf('secondary', argv, file)) as SecondaryConfiguration;
}
