-- Appends records to a lane, each only where its chain goes on.
--
-- KEYS: the lane's stream, and the hash of what was appended last in each partition.
-- ARGV: for each record its place (source/life/partition), sequence, predecessor, generation, id, the
-- number of texts that follow, and these: names and values of the entry. Sequences are decimal, with
-- leading zeros, so that they compare as text. A record without a place is appended in any case.
-- Answers for each: `accepted`, `duplicate`, `diverged`, `blocked`, or the sequence after which it waits
-- for its predecessor.
local stream, last_of = KEYS[1], KEYS[2]
local lasts, repeated, answers = {}, {}, {}

-- Whether the record comes next, or what to say instead. As an inbox decides.
local function judge(place, sequence, previous, generation, id)
  local last = lasts[place]
  if last == nil then
    last = redis.call('HGET', last_of, place)
  end
  if not last then
    return nil
  end
  local sequence_last, generation_last, id_last = last:match('^(%d+) (%S+) (.*)$')
  -- A generation that is new here goes on anywhere: what was appended last may be lost.
  if generation ~= '-' and generation ~= generation_last then
    return nil
  end
  if sequence <= sequence_last then
    repeated[place] = true
    return (sequence == sequence_last and id ~= id_last) and 'diverged' or 'duplicate'
  end
  -- Behind a repeat stands what its sender may have parked meanwhile. If not, it sends that again.
  if repeated[place] then
    return 'blocked'
  end
  return previous > sequence_last and sequence_last or nil, generation_last
end

local at = 1
while ARGV[at] do
  local place, sequence, previous, generation, id, count = unpack(ARGV, at, at + 5)
  local answer, generation_last
  if place ~= '' then
    answer, generation_last = judge(place, sequence, previous, generation, id)
  end
  if not answer then
    redis.call('XADD', stream, '*', unpack(ARGV, at + 6, at + 5 + count))
    if place ~= '' then
      local known = generation == '-' and generation_last or generation
      lasts[place] = sequence .. ' ' .. known .. ' ' .. id
      redis.call('HSET', last_of, place, lasts[place])
    end
    answer = 'accepted'
  end
  answers[#answers + 1] = answer
  at = at + 6 + count
end
return answers
