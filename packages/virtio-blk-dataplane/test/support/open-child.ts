// Opens an image, and prints the bit O_NOATIME of its flags.
import { O_NOATIME, openFlags } from '@node-vmm/libc'
import { Image } from '../../src/image.ts'

console.log(openFlags(Image.open({ path: process.argv[2]! }).fd) & O_NOATIME)
