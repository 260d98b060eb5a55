from test_record import *
from test_record import ranker
import torch, numpy as np
def test_dbg(ranker, world):
    st=ranker.generation.store; n=st.size
    bulk=st.encode(np.arange(n))
    for k in (1,2,3,4,8,16,25):
        bad=[0]*3
        for i in range(n-k):
            one=st.encode(np.arange(i,i+k))
            for j,(a,b) in enumerate(zip(one.parts(),bulk.parts())): bad[j]+= int(not torch.equal(a,b[i:i+k]))
        print(k,bad,n)
    assert 0
