-- Actions in the menu of a FineTuneJob: suspend and resume.

local suspended = obj.spec.suspend == true

return {
  ["suspend"] = { ["disabled"] = suspended },
  ["resume"] = { ["disabled"] = not suspended },
}
