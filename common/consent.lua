#!lua name=openveil
-- The one door through which consent changes (openveil, FORMATS 4). A Redis Function runs to its end before anything
-- else does, so a contact's record, the partition's epoch, the chained hash and the change stream move together.
-- Keys of partition p, all in one cluster slot: ov:{p}:meta, ov:{p}:bits, ov:{p}:changes, ov:{p}:notices,
-- ov:{p}:c:<tenant>:<bucket>.
-- common/consent.c reads what is written here; common/CONSENT.md shows how to call it.

local VERSION = 2             -- of this library; CONSENT_LIBRARY_VERSION in common/consent_client.c
local SCHEMA = '1'            -- of the stored keys
local RECORD_VERSION = 1
local STREAM_LENGTH = 1000000 -- changes that the stream keeps; CONSENT_STREAM_KEEPS in common/consent_job.h
local CHANGES_MAX = 1000
local FIELDS_A_CHANGE = 5
local BITS_DEFAULT = 8
local BITS_MAX = 28
local BUCKET_CONTACTS = 64    -- buckets of a sized tenant begin half to wholly as full; Redis packs up to 128
local BUCKET_CONTACTS_MAX = 128  -- what Redis packs
local MOVED_MAX = 250000      -- contacts that one call may move: about a second
local ERASED_BUCKETS_MAX = 1048576
local NOTICES_MAX = 1000       -- NOTICES_MAX in common/consent_job.h
local NOBODY = '0000000000000000' -- the pseudonym of a change that is about no contact
local NO_HASH = '0000000000000000000000000000000000000000'
local INFORMED, GRANTED = 1, 2
local STATES = {informed = INFORMED, granted = GRANTED, refused = 3, withdrawn = 4, objected = 5}

local function leaves(state)
    return state > GRANTED
end

-- A canonical decimal number within bounds, or nil.
local function integer(text, min, max)
    if not text:find('^%d+$') or #text > 15 or (#text > 1 and text:sub(1, 1) == '0') then
        return nil
    end
    local n = tonumber(text)
    return n >= min and n <= max and n or nil
end

local function decimal(n)
    return string.format('%.0f', n)
end

-- The partition's place in the chain, or nil and an error reply.
local function open_partition(key, mode)
    if type(key) ~= 'string' or not key:find('^ov:{%d+}:meta$') then
        return nil, redis.error_reply('OVARGS the key must be ov:{PARTITION}:meta')
    end
    if mode ~= 'production' and mode ~= 'rehearsal' then
        return nil, redis.error_reply('OVARGS the mode must be production or rehearsal')
    end
    local meta = redis.call('HMGET', key, 'mode', 'epoch', 'hash', 'version')
    local part = {key = key, prefix = key:sub(1, -5), mode = mode, epoch = 0, hash = NO_HASH, bits = {}}
    part.new = not meta[1]
    if part.new then
        if redis.call('EXISTS', part.prefix .. 'changes', part.prefix .. 'bits', part.prefix .. 'notices') ~= 0 then
            return nil, redis.error_reply('OVDAMAGED ' .. key .. ' is gone but its partition is not empty: repair it')
        end
        return part
    end
    if meta[1] ~= mode then
        return nil, redis.error_reply('OVMODE this Redis belongs to ' .. meta[1] .. ', the call to ' .. mode)
    end
    if meta[4] ~= SCHEMA then
        return nil, redis.error_reply('OVVERSION the data is of version ' .. tostring(meta[4]) .. ', not ' .. SCHEMA)
    end
    part.epoch = integer(meta[2] or '', 0, 2 ^ 49)
    part.hash = meta[3]
    if not part.epoch or not part.hash or not part.hash:find('^%x+$') or #part.hash ~= 40 then
        return nil, redis.error_reply('OVDAMAGED ' .. key .. ' has no epoch or hash: repair it')
    end
    return part
end

local function save_partition(part)
    redis.call('HSET', part.key, 'mode', part.mode, 'epoch', decimal(part.epoch), 'hash', part.hash, 'version', SCHEMA)
end

local function bits_of(part, tenant)
    local bits = part.bits[tenant]
    if bits == nil then
        local stored = redis.call('HGET', part.prefix .. 'bits', tenant)
        bits = stored and integer(stored, 0, BITS_MAX)
        if stored and not bits then
            error('the bucket bits of a tenant are damaged: repair ' .. part.prefix .. 'bits')
        end
        part.bits[tenant] = bits or false
    end
    return bits
end

-- The bucket's key and the contact's field in it.
local function place(part, tenant, pseudonym, bits)
    local upper = tonumber(pseudonym:sub(1, BITS_MAX / 4), 16)
    local bucket = math.floor(upper / 2 ^ (BITS_MAX - bits))
    local field = pseudonym:sub(1 + 2 * math.floor(bits / 8)):gsub('%x%x', function(pair)
        return string.char(tonumber(pair, 16))
    end)
    return part.prefix .. 'c:' .. tenant .. ':' .. string.format('%x', bucket), field
end

local function unpack_record(value)
    if not value then
        return {state = 0}
    end
    if #value < 9 or value:byte(1) ~= RECORD_VERSION then
        return {unreadable = true}
    end
    local _, state, since, allowed_since, granted_since = struct.unpack('>BBHHH', value)
    return {state = state, since = since, allowed_since = allowed_since, granted_since = granted_since,
        notice = value:sub(9)}
end

-- The five words of a change, checked; nil and why not.
local function read_change(args, at, today)
    local change = {tenant = args[at], pseudonym = args[at + 1]:lower(), name = args[at + 2], notice = args[at + 4]}
    change.state = STATES[change.name]
    change.since = integer(args[at + 3], 1, 65535)
    if not integer(change.tenant, 0, 4294967295) then
        return nil, 'invalid: the tenant is not a number from 0 to 4294967295'
    elseif #change.pseudonym ~= 16 or not change.pseudonym:find('^%x+$') then
        return nil, 'invalid: the pseudonym is not 16 hex digits'
    elseif not change.state then
        return nil, 'invalid: the state is not informed, granted, refused, withdrawn or objected'
    elseif not change.since then
        return nil, 'invalid: the day is not a number from 1 to 65535'
    elseif change.since > today + 1 then
        return nil, 'invalid: the day is after tomorrow'
    elseif #change.notice < 1 or #change.notice > 32 or not change.notice:find('^[\32-\126]+$') then
        return nil, "invalid: the notice's version is not 1 to 32 printable ASCII characters"
    end
    return change
end

-- A notice of this partition's store: what it names as bits, and from which day it holds; nil where it is not known.
-- Until a first notice is added all of them are known, and name everything.
local function notice_of(part, version)
    if part.any_notice == nil then
        part.any_notice = redis.call('EXISTS', part.prefix .. 'notices') == 1
    end
    if not part.any_notice then
        return {purposes = 3, from = 0}
    end
    local value = redis.call('HGET', part.prefix .. 'notices', version)
    if not value then
        return nil
    end
    local purposes, from = value:match('^([123]) %S+ (%d+) %x+$')
    if not purposes then
        error('a notice is damaged: repair ' .. part.prefix .. 'notices')
    end
    return {purposes = tonumber(purposes), from = tonumber(from)}
end

-- Why the notice forbids an allowing change, or nil.
local function notice_refusal(part, change)
    local notice = notice_of(part, change.notice)
    if not notice then
        return 'refused: the notice is not known: openveil notice add'
    elseif change.since < notice.from then
        return 'refused: the notice holds only from a later day'
    end
    return nil
end

-- Whether the new notice names a purpose that the old one did not.
local function names_more(part, old, new)
    if not part.any_notice or old == new then
        return false
    end
    local before, after = notice_of(part, old), notice_of(part, new)
    return not before or bit.band(after.purposes, bit.bnot(before.purposes)) ~= 0
end

-- Why the record forbids the change, or nil.
local function refusal(old, change)
    if old.unreadable then
        return not leaves(change.state) and 'refused: the record was written by another version and can only be left'
            or nil
    end
    if old.state == 0 then
        return nil
    end
    if change.since < old.since then
        return 'refused: the record holds a later day'
    end
    if change.state == INFORMED and old.state ~= INFORMED then
        return 'refused: informed can follow only unknown or informed'
    end
    if not leaves(change.state) and leaves(old.state) and change.since == old.since then
        return 'refused: the contact left on that day'
    end
    return nil
end

-- What a wider notice adds has not been allowed before, so its days begin anew.
local function pack_record(part, old, change)
    local allowed_since, granted_since = 0, 0
    if not leaves(change.state) then
        local was_allowed = old.state == INFORMED or old.state == GRANTED
        local wider = was_allowed and names_more(part, old.notice, change.notice)
        allowed_since = was_allowed and not wider and old.allowed_since or change.since
        if change.state == GRANTED then
            granted_since = old.state == GRANTED and not wider and old.granted_since or change.since
        end
    end
    return struct.pack('>BBHHH', RECORD_VERSION, change.state, change.since, allowed_since, granted_since)
        .. change.notice
end

-- The next epoch: chained, and in the stream. It can be refused (an entry of this epoch exists already), so it comes
-- before everything else that is written.
local function advance(part, tenant, pseudonym, name, since, notice)
    local epoch = part.epoch + 1
    local hash = redis.sha1hex(part.hash .. ' ' .. tenant .. ' ' .. pseudonym .. ' ' .. name .. ' ' .. since .. ' '
        .. notice)
    redis.call('XADD', part.prefix .. 'changes', 'MAXLEN', '~', STREAM_LENGTH, decimal(epoch) .. '-0', 't', tenant,
        'p', pseudonym, 's', name, 'd', since, 'n', notice, 'h', hash)
    part.epoch, part.hash, part.changed = epoch, hash, true
end

-- One change: the receipt, or a string that begins with "invalid:" or "refused:".
local function apply(part, change)
    local bits = bits_of(part, change.tenant)
    local chosen = bits or BITS_DEFAULT
    local bucket, field = place(part, change.tenant, change.pseudonym, chosen)
    local value = redis.call('HGET', bucket, field)
    local old = unpack_record(value)
    local why = refusal(old, change) or (not leaves(change.state) and notice_refusal(part, change)) or nil
    if why then
        return why
    end
    local new = pack_record(part, old, change)
    if new == value then
        return part.epoch
    end
    advance(part, change.tenant, change.pseudonym, change.name, decimal(change.since), change.notice)
    if not bits then
        redis.call('HSET', part.prefix .. 'bits', change.tenant, chosen)
        part.bits[change.tenant] = chosen
    end
    redis.call('HSET', bucket, field, new)
    return part.epoch
end

-- FCALL openveil_set 1 ov:{PARTITION}:meta MODE TODAY (TENANT PSEUDONYM STATE SINCE NOTICE)...
-- An array with, for each change, the receipt (an integer) or why not (a string).
local function openveil_set(keys, args)
    local n = (#args - 2) / FIELDS_A_CHANGE
    if #keys ~= 1 or n < 1 or n ~= math.floor(n) or n > CHANGES_MAX then
        return redis.error_reply('OVARGS one key, the mode, today and 1 to 1000 changes of 5 words are needed')
    end
    local today = integer(args[2], 1, 65535)
    if not today then
        return redis.error_reply('OVARGS today is not a number from 1 to 65535')
    end
    local part, failure = open_partition(keys[1], args[1])
    if not part then
        return failure
    end
    local results = {}
    local ok, stopped = true, nil
    for i = 1, n do
        local change, why = read_change(args, 3 + (i - 1) * FIELDS_A_CHANGE, today)
        if change then
            -- What went through before an unexpected error must still reach the epoch and hash below.
            ok, why = pcall(apply, part, change)
            if not ok then
                stopped = type(why) == 'table' and (why.err or why[1]) or why
                break
            end
        end
        results[i] = why
    end
    if part.changed then
        save_partition(part)
    end
    if not ok then
        return redis.error_reply('OVDAMAGED ' .. tostring(stopped))
    end
    return results
end

-- FCALL openveil_size_hint 1 ov:{PARTITION}:meta MODE TENANT CONTACTS
-- Before a tenant's first contact: chooses how many buckets it gets. The bits in force, chosen now or earlier.
local function openveil_size_hint(keys, args)
    local tenant = args[2] and integer(args[2], 0, 4294967295)
    local contacts = args[3] and integer(args[3], 0, 2 ^ 49)
    if #keys ~= 1 or #args ~= 3 or not tenant or not contacts then
        return redis.error_reply('OVARGS one key, the mode, a tenant and a number of contacts are needed')
    end
    local part, failure = open_partition(keys[1], args[1])
    if not part then
        return failure
    end
    local bits = bits_of(part, args[2])
    if bits then
        return bits
    end
    bits = 0
    while bits < BITS_MAX and contacts > BUCKET_CONTACTS * 2 ^ bits do
        bits = bits + 1
    end
    if part.new then
        save_partition(part)
    end
    redis.call('HSET', part.prefix .. 'bits', args[2], bits)
    return bits
end

-- The tenant's bucket of that number under a layout.
local function bucket_key(part, tenant, bucket)
    return part.prefix .. 'c:' .. tenant .. ':' .. string.format('%x', bucket)
end

-- What the calls about a whole tenant share: partition, bits (false: no contact), or nil and an error reply.
local function open_tenant(keys, args, n_args)
    if #keys ~= 1 or #args ~= n_args or not integer(args[2], 1, 65535) or not integer(args[3], 0, 4294967295) then
        return nil, redis.error_reply('OVARGS one key, the mode, today and a tenant are needed')
    end
    local part, failure = open_partition(keys[1], args[1])
    if not part then
        return nil, failure
    end
    return part, bits_of(part, args[3])
end

-- FCALL openveil_erase_tenant 1 ov:{PARTITION}:meta MODE TODAY TENANT
-- Removes every record of a tenant; the receipt, or a string that says why not.
local function openveil_erase_tenant(keys, args)
    local part, bits = open_tenant(keys, args, 3)
    if not part then
        return bits
    end
    local tenant = args[3]
    if not bits then
        return part.epoch
    elseif 2 ^ bits > ERASED_BUCKETS_MAX then
        return 'refused: the tenant has more buckets than one call may remove'
    end
    advance(part, tenant, NOBODY, 'erased', args[2], '-')
    for bucket = 0, 2 ^ bits - 1 do
        redis.call('UNLINK', bucket_key(part, tenant, bucket))
    end
    redis.call('HDEL', part.prefix .. 'bits', tenant)
    save_partition(part)
    return part.epoch
end

-- Moves a bucket's contacts into those of the new layout. With more buckets the last goes first, with fewer the first:
-- then what a bucket is moved into has been emptied before, or is itself.
local function move_bucket(part, tenant, bucket, bits, new_bits)
    local fields = redis.call('HGETALL', bucket_key(part, tenant, bucket))
    redis.call('UNLINK', bucket_key(part, tenant, bucket))
    local fixed = bits - bits % 8
    local head = string.format('%0' .. math.max(fixed / 4, 1) .. 'x', math.floor(bucket / 2 ^ (bits - fixed)))
    for i = 1, #fields, 2 do
        local pseudonym = (fixed > 0 and head or '') .. fields[i]:gsub('.', function(char)
            return string.format('%02x', char:byte())
        end)
        local to, field = place(part, tenant, pseudonym, new_bits)
        redis.call('HSET', to, field, fields[i + 1])
    end
end

-- FCALL openveil_rebucket 1 ov:{PARTITION}:meta MODE TODAY TENANT BITS
-- Cuts the tenant's buckets by another number of bits, in one step; the receipt, or a string that says why not.
local function openveil_rebucket(keys, args)
    local part, bits = open_tenant(keys, args, 4)
    if not part then
        return bits
    end
    local tenant, new_bits = args[3], integer(args[4], 0, BITS_MAX)
    if not new_bits or 2 ^ new_bits > ERASED_BUCKETS_MAX then
        return 'invalid: the bits are not a number from 0 to 20'
    elseif not bits then
        return 'refused: the tenant has no contact'
    elseif bits == new_bits then
        return part.epoch
    elseif 2 ^ bits > ERASED_BUCKETS_MAX then
        return 'refused: the tenant has more buckets than one call may move'
    end
    local contacts = 0
    for bucket = 0, 2 ^ bits - 1 do
        contacts = contacts + redis.call('HLEN', bucket_key(part, tenant, bucket))
    end
    if contacts > MOVED_MAX then
        return 'refused: the tenant has ' .. decimal(contacts) .. ' contacts; one call moves up to ' .. decimal(MOVED_MAX)
    elseif contacts > BUCKET_CONTACTS_MAX / 2 * 2 ^ new_bits then
        return 'refused: more than 64 contacts a bucket: too few bits for ' .. decimal(contacts) .. ' contacts'
    end
    advance(part, tenant, NOBODY, 'rebucketed', args[2], '-')
    local first, last, step = 0, 2 ^ bits - 1, 1
    if new_bits > bits then
        first, last, step = last, first, -1
    end
    for bucket = first, last, step do
        move_bucket(part, tenant, bucket, bits, new_bits)
    end
    redis.call('HSET', part.prefix .. 'bits', tenant, new_bits)
    save_partition(part)
    return part.epoch
end

-- FCALL openveil_notice_add 1 ov:{PARTITION}:meta MODE TODAY VERSION PURPOSES LANGUAGE FROM HASH
-- PURPOSES: 1 deliverability, 2 inactivity, 3 both. The receipt, or a string that says why not.
local function openveil_notice_add(keys, args)
    local today = #keys == 1 and #args == 7 and integer(args[2], 1, 65535)
    if not today then
        return redis.error_reply('OVARGS one key, the mode, today and the five words of a notice are needed')
    end
    local part, failure = open_partition(keys[1], args[1])
    if not part then
        return failure
    end
    local version, purposes, language, from, hash = args[3], args[4], args[5], args[6], args[7]
    if #version < 1 or #version > 32 or not version:find('^[\32-\126]+$') or version == '-'
        or not purposes:find('^[123]$') or #language > 35 or not language:find('^[%w-]+$')
        or not integer(from, 1, 65535) or #hash ~= 64 or not hash:find('^%x+$') then
        return 'invalid: the words of the notice are wrong'
    end
    local value = purposes .. ' ' .. language .. ' ' .. from .. ' ' .. hash
    local stored = redis.call('HGET', part.prefix .. 'notices', version)
    if stored == value then
        return part.epoch
    elseif stored then
        return 'refused: a notice of that version exists and is another'
    elseif redis.call('HLEN', part.prefix .. 'notices') >= NOTICES_MAX then
        return 'refused: there are as many notices as there may be'
    end
    advance(part, '0', NOBODY, 'notice', from, version)
    redis.call('HSET', part.prefix .. 'notices', version, value)
    save_partition(part)
    return part.epoch
end

-- Declared as a writing function on purpose: a replica, or a primary that may not write, answers with an error, and a
-- client that asks when it connects learns that its answers could be stale.
local function openveil_version()
    return VERSION
end

redis.register_function('openveil_set', openveil_set)
redis.register_function('openveil_size_hint', openveil_size_hint)
redis.register_function('openveil_erase_tenant', openveil_erase_tenant)
redis.register_function('openveil_rebucket', openveil_rebucket)
redis.register_function('openveil_notice_add', openveil_notice_add)
redis.register_function('openveil_version', openveil_version)
