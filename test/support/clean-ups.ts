/** What the tests of a file have begun, and is to end with the test that began it. */
import test from 'ava';

/** Once in a file. What is added is done after the test, the last first, also if it failed. */
export function cleanUpAfterEach(): (cleanUp: () => Promise<void>) => void {
  const cleanUps: (() => Promise<void>)[] = [];
  test.afterEach.always(async () => {
    for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
  });
  return (cleanUp) => {
    cleanUps.push(cleanUp);
  };
}
