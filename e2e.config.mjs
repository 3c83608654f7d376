/** The end-to-end tests: real guests in network namespaces, one file after the other. */
export default {
  files: ['build/test/e2e/**/*.test.js'],
  workerThreads: false,
  concurrency: 1,
  serial: true,
  timeout: '10m',
};
