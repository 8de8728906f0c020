import { truncateSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { bootQemu, qemu } from '../support/guest.ts'
import { blankImage } from '../support/image.ts'
import { testWith } from '../support/programs.ts'
import { ourServer, withServer } from '../support/server.ts'
import { cleanUp } from '../support/temporary.ts'

const MEBIBYTE = 1024 * 1024

const waitForSize = (mebibytes: number): string => `
until [ $(cat /sys/block/vda/size) = ${mebibytes * 2048} ]; do sleep 0.1; done
`

/** One sector, past the page cache, at the start of a mebibyte. */
const write = (mebibyte: number): string => `dd if=/dev/zero of=/dev/vda bs=1M seek=${mebibyte} count=1 oflag=direct`

testWith(ourServer, ...qemu)('a running guest sees its disk grow and shrink', async () => {
  const image = blankImage(32)
  await withServer({ image }, async ({ socket, program }) => {
    const guest = bootQemu({
      socket,
      script: `
        if ${write(40)}; then say beyond accepted; else say beyond refused; fi
        say small
        ${waitForSize(64)}
        ${write(40)}
        say grown
        ${waitForSize(16)}
        ${write(15)}
        if ${write(40)}; then say cut accepted; else say cut refused; fi`
    })
    await guest.says('small')
    truncateSync(image, 64 * MEBIBYTE)
    program.signal('SIGHUP')
    await guest.says('grown')
    truncateSync(image, 16 * MEBIBYTE)
    program.signal('SIGHUP')
    const results = await guest.finished()
    assert.is(results.get('beyond'), 'refused')
    assert.is(results.get('cut'), 'refused')
  })
})

test.after.each(cleanUp)
test.run()
