import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { suite } from 'uvu'
import { EventNotifier, EventPoll, serveFromNode } from '@node-vmm/event-poll'

const test = suite('serveFromNode')
const delay = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds))

test('runs callbacks beside timers, for as long as it is open', async () => {
  const poll = new EventPoll()
  const notifier = EventNotifier.create()
  let ran = 0
  let wake = (): void => {}
  poll.add(notifier, () => {
    ran++
    wake()
  })
  const watch = serveFromNode(poll)
  for (let round = 1; round <= 20; round++) {
    const woken = new Promise<void>((resolve) => { wake = resolve })
    notifier.notify()
    await woken
    assert.equal(ran, round)
  }
  watch.close()
  notifier.notify()
  await delay(30)
  assert.equal(ran, 20)
  assert.equal(poll.poll(0), 1, 'the poll itself still works')
  poll.close()
  notifier.close()
})

test('is closed together with the poll', async () => {
  const poll = new EventPoll()
  const notifier = EventNotifier.create()
  poll.add(notifier, () => assert.fail('the poll is closed'))
  serveFromNode(poll)
  notifier.notify()
  poll.close()
  await delay(30)
  notifier.close()
  assert.throws(() => serveFromNode(poll), { code: 'ERR_EVENT_POLL_CLOSED' })
})

test('keeps the process alive until it is closed or let go of', () => {
  const script = (end: string): string => `
    import { EventNotifier, EventPoll, serveFromNode } from '@node-vmm/event-poll'
    const poll = new EventPoll()
    const watch = serveFromNode(poll)
    ${end}
  `
  for (const [end, expected] of [
    // A timer that does not keep it alive itself.
    ['setTimeout(() => process.exit(7), 300).unref()', 7], ['watch.unref()', 0], ['watch.close()', 0], ['poll.close()', 0]
  ] as const) {
    const { status } = spawnSync(process.execPath, [...process.execArgv, '--input-type=module', '-e', script(end)],
      { cwd: new URL('..', import.meta.url), timeout: 60_000 })
    assert.equal(status, expected, end)
  }
})

test.run()
